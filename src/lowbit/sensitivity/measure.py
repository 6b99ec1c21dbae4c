"""Measures a model on a task's calibration text, once: tables are cached on disk.

The calibration part is neither trained on nor scored. A cache file holds one table. Its name is a
hash of everything the table depends on: weights, data, formats, ranks, samples, seed, versions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any

import torch
from filelock import FileLock
from transformers import PretrainedConfig

from lowbit.core.cache import cache_dir
from lowbit.core.errors import UserError
from lowbit.core.files import file_digest, write_atomic
from lowbit.core.spec import Plan, Rounding, Site
from lowbit.curvature.measured_model import MeasuredModel, OnProgress, shifted
from lowbit.curvature.model_outputs import Outputs
from lowbit.layers import matmul
from lowbit.plan.rules import stored_in
from lowbit.quant.codec import Packed
from lowbit.runs import allocator, device
from lowbit.runs.export.peft import WEIGHTS
from lowbit.runs.prepare import Prepared, weights_digest
from lowbit.runs.record import ADAPTER
from lowbit.runs.rounding.round_model import round_sites
from lowbit.runs.rounding.rounded_sites import VERSION as ROUNDING_VERSION
from lowbit.sensitivity.build_table import build_table
from lowbit.sensitivity.calibration import (
    CalibrationText,
    calibration_text,
    subset_indices,
)
from lowbit.sensitivity.estimate import check_memory
from lowbit.sensitivity.open_model import finished_run, open_finished_run, open_model
from lowbit.sensitivity.table import (
    Calibration,
    MeasureRequest,
    OutputChange,
    SensitivityTable,
    from_text,
    to_text,
)

CACHE_VERSION = 16
"""Raised whenever the same model would be measured differently."""


def sensitivity_table(
    prepared: Prepared,
    request: MeasureRequest,
    calibration: Calibration,
    on_progress: OnProgress,
) -> SensitivityTable:
    """The sensitivity table of a model and task; the plan and training settings do not matter."""
    spec = prepared.spec
    if calibration.at is None and prepared.task.kind != "language":
        raise UserError(
            f"{spec.task.name}: a classifier has no trained head before training; measure it at a "
            f"short 16-bit run: lowbit adapt {spec.model} --task {spec.task.name} "
            "--plan bf16 --out RUN, then add --at RUN"
        )
    if calibration.at is not None:
        finished_run(spec, calibration.at)
    path = cache_dir() / "sensitivities" / f"{_key(prepared, request, calibration)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A second process that needs the same table waits for the first.
    with FileLock(f"{path}.lock"):
        if path.is_file():
            return from_text(path.read_text(encoding="utf-8"))
        with allocator.keeping_some_freed_memory():
            model = _open(prepared, calibration)
            check_memory(model, request, device.free_memory(torch.device("cpu")))
            model.curved = subset_indices(model.batches, request.curved)
            model.sites = sites_to_measure(model, request)
            names = (spec.model, spec.task.display_name)
            table = build_table(model, request, names, allocator.emptying_holes(on_progress))
        write_atomic(path, to_text(table).encode())
    return table


def _key(prepared: Prepared, request: MeasureRequest, calibration: Calibration) -> str:
    """A hash of everything that the table depends on."""
    key = json.dumps([*_about(prepared, calibration), asdict(request)])
    return sha256(key.encode()).hexdigest()[:24]


def _about(prepared: Prepared, calibration: Calibration) -> list[Any]:
    """The model, the text and the versions."""
    at = calibration.at
    adapter = "" if at is None else file_digest(at / ADAPTER / WEIGHTS)
    weights, data = weights_digest(prepared.checkpoint), prepared.data.fingerprint
    about: list[Any] = [CACHE_VERSION, weights, data, calibration.tokens, adapter]
    about.append(_architecture(prepared.checkpoint.config))
    about += [] if calibration.parts == ("calibration",) else list(calibration.parts)
    return [*about, torch.__version__, matmul.simd_name()]


def _architecture(config: PretrainedConfig) -> str:
    """A hash of the model's config, without the path it came from and the versions."""
    body = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "dtype")}
    body.pop("transformers_version", None)
    return sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _open(prepared: Prepared, calibration: Calibration, least: int | None = None) -> MeasuredModel:
    """The model at its base or at a finished run, with its calibration text."""
    text = _text(prepared, calibration, least)
    if calibration.at is None:
        return open_model(prepared, text)
    run = finished_run(prepared.spec, calibration.at)
    return open_finished_run(run, prepared, calibration.at, text)


def _text(prepared: Prepared, calibration: Calibration, least: int | None) -> CalibrationText:
    limits = {} if least is None else {"least": least}
    text = calibration_text(prepared, calibration.tokens, calibration.parts, **limits)
    return text


def sites_to_measure(model: MeasuredModel, request: MeasureRequest) -> tuple[Site, ...]:
    """Only block matrices, if every joint choice names only block matrices; else all sites."""
    blocks = {site.name for site in model.block_sites}
    names = {site for _, formats in request.joint for site, _ in formats}
    return model.sites if request.uniform or not names or names - blocks else model.block_sites


def output_changes(
    prepared: Prepared,
    choices: Mapping[str, tuple[Mapping[str, str], Rounding]],
    calibration: Calibration,
    on_progress: OnProgress,
) -> dict[str, OutputChange]:
    """The change of a model's outputs when its sites are stored in these formats, untrained.

    `choices`: by name, the formats of the sites below 16 bits, and how they are rounded. Each
    change is cached on disk.
    """
    with OutputChanges(prepared, calibration, on_progress) as measured:
        changes = {}
        for i, (name, (formats, rounding)) in enumerate(choices.items()):
            on_progress("candidates", i, len(choices))
            changes[name] = measured.of(formats, 1, rounding)
    on_progress("candidates", len(choices), len(choices))
    return changes


class OutputChanges:
    """Runs stored models on a task's text; opens the model once a change is not in the cache."""

    def __init__(
        self,
        prepared: Prepared,
        calibration: Calibration,
        on_progress: OnProgress = lambda phase, done, total: None,
    ) -> None:
        self.prepared, self.calibration = prepared, calibration
        self.on_progress = allocator.emptying_holes(on_progress)
        self.opened: MeasuredModel | None = None
        self.references: dict[int, tuple[MeasuredModel, Outputs]] = {}

    def __enter__(self) -> OutputChanges:
        self.stack = ExitStack()
        self.stack.enter_context(allocator.keeping_some_freed_memory())
        return self

    def __exit__(self, *error: object) -> None:
        self.opened = None
        self.references.clear()
        self.stack.close()

    def of(
        self, formats: Mapping[str, str], every: int = 1, rounding: Rounding = "nearest"
    ) -> OutputChange:
        """The change with these formats at these sites, all others in 16 bits.

        `every`: only every so many sequences.
        """
        about = [_about(self.prepared, self.calibration), every, sorted(formats.items())]
        about += [rounding, ROUNDING_VERSION] if rounding != "nearest" else []
        name = sha256(json.dumps(about).encode()).hexdigest()[:24]
        path = cache_dir() / "output-changes" / f"{name}.json"
        if path.is_file():
            return OutputChange(**json.loads(path.read_text(encoding="utf-8")))
        change = self._measured(formats, rounding, *self._reference(every))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(change)).encode())
        return change

    def _reference(self, every: int) -> tuple[MeasuredModel, Outputs]:
        """The 16-bit model with every so many sequences, and its outputs for them."""
        if every not in self.references:
            if self.opened is None:
                self.opened = _open(self.prepared, self.calibration, least=1)
            batches, documents = self.opened.batches[::every], self.opened.documents[::every]
            model = replace(self.opened, batches=batches, documents=documents)
            self.references[every] = model, model.outputs()
        return self.references[every]

    def _measured(
        self,
        formats: Mapping[str, str],
        rounding: Rounding,
        model: MeasuredModel,
        reference: Outputs,
    ) -> OutputChange:
        rounded = {} if rounding == "nearest" else self._rounded(formats, rounding, model)
        with shifted(model, model.errors(formats, rounded)):
            stored_losses, kl = model.losses_and_kl(reference)
        units = sum(model.counts)
        increases = [b - a for a, b in zip(reference.losses(), stored_losses, strict=True)]
        return OutputChange(
            max(0.0, sum(kl)) / units, model.spread(kl),
            sum(increases) / units, model.spread(increases),
        )  # fmt: skip

    def _rounded(
        self, formats: Mapping[str, str], rounding: Rounding, model: MeasuredModel
    ) -> dict[str, Packed]:
        """The block matrices, rounded with training text as a run of this plan stores them."""
        plan = Plan("planned", rounding=rounding)
        choices = {s.name: stored_in(plan, s, formats.get(s.name, "bf16")) for s in model.sites}
        prepared = self.prepared.with_plan(plan)
        rounded = round_sites(prepared, model.sites, choices, self.on_progress)
        return {name: site.packed for name, site in rounded.items()}
