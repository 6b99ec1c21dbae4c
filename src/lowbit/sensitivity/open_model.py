"""Opens a model for measuring: the base in 16 bits, or a finished run with its adapter merged.

Both run on the CPU in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from lowbit.core.errors import UserError
from lowbit.core.spec import RunSpec, Site
from lowbit.core.toml import check
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.open_base import open_base
from lowbit.curvature.site_curvature import as_site
from lowbit.models.loading import load
from lowbit.quant.formats import is_cast, parse
from lowbit.runs.build import build_run
from lowbit.runs.device import cpu_machine
from lowbit.runs.export import merge, peft
from lowbit.runs.prepare import Prepared
from lowbit.runs.record import ADAPTER
from lowbit.runs.store import find_run
from lowbit.sensitivity.calibration import CalibrationText


def open_model(prepared: Prepared, text: CalibrationText) -> MeasuredModel:
    """The base model with the weights that 16 bits store."""
    return open_base(prepared.checkpoint, prepared.task.kind, prepared.pad, *text)


def open_finished_run(
    run: RunSpec, prepared: Prepared, folder: Path, text: CalibrationText
) -> MeasuredModel:
    """The model of a finished run, with its adapter merged into the weights."""
    merged, sites, base = merged_run(run, prepared, folder)
    batches, documents = text
    kind, checkpoint = prepared.task.kind, prepared.checkpoint
    file_formats = checkpoint.stored if checkpoint.gguf is not None else {}
    return MeasuredModel(merged, sites, batches, kind, base, documents, file_formats=file_formats)


def finished_run(spec: RunSpec, folder: Path) -> RunSpec:
    """The run in a folder, after a check that this model can be measured there."""
    finished = find_run(folder)
    record = None if finished is None else finished.record
    if record is None or record.status != "done":
        raise UserError(f"{folder} holds no finished run to measure at")
    run = check(RunSpec, record.spec, None)
    if (run.model, run.task.name) != (spec.model, spec.task.name):
        raise UserError(
            f"{folder} is a run of {run.model} on {run.task.name}, not of {spec.model} on "
            f"{spec.task.name}, which is to be measured"
        )
    if not all(is_cast(parse(site.format)) for site in record.sites):
        raise UserError(
            f"{folder} was trained in few bits already; errors are counted from a 16-bit run"
        )
    if not (folder / ADAPTER).is_dir():
        raise UserError(f"{folder} has a record but no adapter any more: do the run again")
    return run


def merged_run(
    run: RunSpec, prepared: Prepared, folder: Path
) -> tuple[nn.Module, tuple[Site, ...], dict[str, Tensor]]:
    """A run's model with its adapter merged, its stored sites, and their exact weights."""
    installed = build_run(prepared.with_spec(run), cpu_machine())
    peft.attach(installed.model, peft.read(folder / ADAPTER))
    kind, labels = prepared.task.kind, len(prepared.data.labels)
    at = (installed.model, installed.sites, prepared.checkpoint, kind, labels, prepared.pad)
    merged = merge.plain_model(*at, merge=True).eval()
    sites = tuple(site for site in installed.sites if not site.fresh)
    exact = load(prepared.checkpoint, kind, labels, prepared.pad)
    return merged, sites, _weights(exact, sites)


def _weights(model: nn.Module, sites: Sequence[Site]) -> dict[str, Tensor]:
    return {
        site.name: as_site(model, site.name, model.get_submodule(site.name).weight.detach())  # type: ignore
        for site in sites
    }
