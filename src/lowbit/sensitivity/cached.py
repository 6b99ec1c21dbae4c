"""A model's sensitivities on a task's calibration text, kept once they are known.

The calibration part is neither trained on nor scored. A file a table, named by everything that it
depends on: weights, data, formats, ranks, samples, seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from lowbit.core.cache import cache_dir
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.files import digest, write_atomic
from lowbit.core.spec import RunSpec, Site
from lowbit.core.toml import check
from lowbit.layers import matmul
from lowbit.models.family import find_sites
from lowbit.models.loading import load
from lowbit.quant.formats import is_cast, parse
from lowbit.runs import device as machine
from lowbit.runs.build import install_run
from lowbit.runs.export import merge, peft
from lowbit.runs.export.peft import WEIGHTS
from lowbit.runs.prepare import Prepared, prepare_run, weights_digest
from lowbit.runs.record import ADAPTER
from lowbit.runs.record import load as load_record
from lowbit.sensitivity.curvature import as_site
from lowbit.sensitivity.measure import measure
from lowbit.sensitivity.measured_model import Lab, Told, moved, rounded
from lowbit.sensitivity.table import Asked, SensitivityTable, from_text, to_text
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import collate

MEASURE = 12
"""To be raised whenever the same model would be measured differently."""
LEAST = 512
"""Tokens below which second derivatives say nothing."""


def table_of(
    spec: RunSpec,
    execution: Execution,
    asked: Asked,
    tokens: int,
    told: Told,
    at: Path | None = None,
    parts: Sequence[str] = ("calibration",),
) -> SensitivityTable:
    """The table of the spec's model and task; its plan and settings do not matter.

    `at`: a finished 16-bit run, whose adapter is put into the weights first. `parts`: whose text,
    of which training may be one only where nothing is trained.
    """
    machine.set_up(execution, "fp32")
    start = prepare_run(spec)
    if at is None and start.task.kind != "language":
        raise UserError(
            f"{spec.task.name}: a classifier's head does not exist before training; measure it "
            f"where a short 16-bit run stands: lowbit adapt {spec.model} --task {spec.task.name} "
            "--plan bf16 --out RUN, then --at RUN"
        )
    ran = None if at is None else _ran(spec, at)
    where = "" if at is None else digest(at / ADAPTER / WEIGHTS)
    about = [MEASURE, weights_digest(start.checkpoint), start.data.fingerprint, tokens, where]
    about.append(_architecture(start.checkpoint.config))
    about += [] if tuple(parts) == ("calibration",) else list(parts)
    key = json.dumps([*about, torch.__version__, matmul.vectors(), asdict(asked)])
    name = sha256(key.encode()).hexdigest()[:24]
    path = cache_dir() / "sensitivities" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whoever asks for the same while it is being measured waits for it.
    with FileLock(f"{path}.lock"):
        if path.is_file():
            return from_text(path.read_text(encoding="utf-8"))
        text = sequences(start, tokens, parts)
        check_room(start, text, machine.free_memory(torch.device("cpu")))
        lab = _lab(start, text) if at is None or ran is None else _lab_at(ran, start, at, text)
        lab.curved = fewer(lab.batches, asked.curved)
        lab.sites = wanted_sites(lab, asked)
        table = measure(lab, asked, (spec.model, spec.task.called), told)
        write_atomic(path, to_text(table).encode())
    return table


def check_room(start: Prepared, text: Text, free: int) -> None:
    """The outputs in 16 bits are kept, to hold every other against: a number a word a token."""
    wide = int(getattr(start.checkpoint.config, "vocab_size", 0))
    tokens = sum(sum(batch.labels) for batch in text[0])
    if start.task.kind == "language" and 4 * wide * tokens > free:
        raise UserError(
            f"what the model says of {tokens:,} tokens, over {wide:,} words, takes "
            f"{4 * wide * tokens / 1e9:,.1f} GB, and {free / 1e9:,.1f} are free: ask for fewer "
            f"tokens of calibration text, {max(1, free // (8 * wide)):,} for instance"
        )


def _architecture(config: Any) -> str:
    """All that is said of a model beside its weights, but for where it came from."""
    said = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "dtype")}
    said.pop("transformers_version", None)
    return sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def apart(
    spec: RunSpec,
    choices: Mapping[str, Mapping[str, str]],
    tokens: int,
    told: Told,
    at: Path | None = None,
    part: str = "selection",
) -> dict[str, Apart]:
    """What storing sites in these formats does on another part of the text, untrained."""
    start = prepare_run(spec)
    text = sequences(start, tokens, (part,), least=1)
    check_room(start, text, machine.free_memory(torch.device("cpu")))
    lab = _lab(start, text) if at is None else _lab_at(_ran(spec, at), start, at, text)
    outputs = lab.outputs()
    before, units, found = lab.losses(outputs), sum(lab.counts), {}
    for i, (name, formats) in enumerate(choices.items()):
        told("candidates", i, len(choices))
        with moved(lab, {site: lab.error(site, each) for site, each in formats.items()}):
            after, kl = lab.beside(outputs)
        lost = [b - a for a, b in zip(before, after, strict=True)]
        found[name] = Apart(
            max(0.0, sum(kl)) / units, lab.spread(kl), sum(lost) / units, lab.spread(lost)
        )
    told("candidates", len(choices), len(choices))
    return found


@dataclass(frozen=True)
class Apart:
    """Nats a token: how far the outputs are from 16 bits', what was lost, and standard errors."""

    kl: float
    kl_spread: float
    loss: float
    loss_spread: float


def _lab(start: Prepared, text: Text) -> Lab:
    """The model as 16 bits store it, on the CPU, and single sequences."""
    model = load(start.checkpoint, start.task.kind, 0, start.pad).float().eval()
    sites = find_sites(model, start.checkpoint.matrices)
    base = _weights(model, sites)
    with torch.no_grad():
        for site in sites:
            parameter: torch.nn.Parameter = model.get_submodule(site.name).weight  # type: ignore
            parameter.copy_(as_site(model, site.name, rounded(base[site.name])))
    batches, documents = text
    return Lab(model, sites, batches, start.task.kind, base, documents)


def _ran(spec: RunSpec, at: Path) -> RunSpec:
    """The run that is measured at, if it can be."""
    record = load_record(at)
    if record is None or record.status != "done":
        raise UserError(f"{at} holds no finished run to measure at")
    ran = check(RunSpec, record.spec, None)
    if (ran.model, ran.task.name) != (spec.model, spec.task.name):
        raise UserError(f"{at} is a run of {ran.model} on {ran.task.name}, not of what is measured")
    if not all(is_cast(parse(site.format)) for site in record.sites):
        raise UserError(f"{at} was trained in few bits already; errors are counted from 16")
    if not (at / ADAPTER).is_dir():
        raise UserError(f"{at} has a record but no adapter any more: do the run again")
    return ran


def _lab_at(ran: RunSpec, start: Prepared, at: Path, text: Text) -> Lab:
    """The model with a run's adapter in its weights."""
    merged, sites, base = merged_run(ran, start, at)
    batches, documents = text
    return Lab(merged, sites, batches, start.task.kind, base, documents)


def merged_run(
    ran: RunSpec, start: Prepared, folder: Path
) -> tuple[nn.Module, tuple[Site, ...], dict[str, Tensor]]:
    """A run's model with its adapter merged, its stored sites, and their exact weights."""
    made = install_run(ran, start, Execution(), torch.device("cpu"), "fp32")
    peft.attach(made.model, peft.read(folder / ADAPTER))
    kind, labels = start.task.kind, len(start.data.labels)
    where = (made.model, made.sites, start.checkpoint, kind, labels, start.pad)
    merged = merge.plain(*where, merge=True).eval()
    sites = tuple(site for site in made.sites if not site.fresh)
    exact = load(start.checkpoint, kind, labels, start.pad).float()
    return merged, sites, _weights(exact, sites)


def _weights(model: nn.Module, sites: Sequence[Site]) -> dict[str, Tensor]:
    return {
        site.name: as_site(model, site.name, model.get_submodule(site.name).weight.detach().clone())  # type: ignore
        for site in sites
    }


Text = tuple[list[Batch], list[int]]
"""Sequences, one a batch, and the document of each."""


def sequences(
    start: Prepared,
    tokens: int,
    parts: Sequence[str] = ("calibration",),
    least: int = LEAST,
) -> Text:
    """About so many tokens in sequences spread evenly over all that there are: a long document
    speaks as often as it does where text is scored.
    """
    examples = [
        (part, i, e) for part in parts for i, e in enumerate(start.data.parts.get(part, ()))
    ]
    sizes = [len(example.ids) for *_, example in examples]
    count = sum(sizes)
    if count < min(tokens, least):
        # A sentence has one loss, a token each its own.
        units = len(sizes) if start.task.kind == "classification" else count
        raise UserError(
            f"{start.task.name} has {count:,} tokens to calibrate on; {min(tokens, least):,} are "
            "needed: a gap of 0.01 nats would be known to "
            f"± {1.96 * math.sqrt(0.02 / max(1, units)):.3f}"
        )
    chosen = [examples[i] for i in spread(sizes, tokens)]
    numbers: dict[tuple[str, int], int] = {}
    found = [collate(start.data.parts[part], [i]) for part, i, _ in chosen]
    documents = [numbers.setdefault((part, e.document), len(numbers)) for part, _, e in chosen]
    return found, documents


def fewer(batches: Sequence[Batch], tokens: int) -> tuple[int, ...]:
    """Places of sequences spread over all, of about so many tokens; none where that is all."""
    sizes = [sum(batch.labels) for batch in batches]
    return spread(sizes, tokens) if tokens and tokens < sum(sizes) else ()


def spread(sizes: Sequence[int], wanted: int) -> tuple[int, ...]:
    """Places, evenly spread, of things that together are about as large as wanted, or of all."""
    if wanted >= sum(sizes):
        return tuple(range(len(sizes)))
    count = math.ceil(len(sizes) * wanted / sum(sizes))
    return tuple(int(i * len(sizes) / count) for i in range(count))


def wanted_sites(lab: Lab, asked: Asked) -> tuple[Site, ...]:
    """Block matrices alone where every choice that is asked about is one of those."""
    blocks = {site.name for site in lab.blocks}
    named = {site for _, formats in asked.joint for site, _ in formats}
    return lab.sites if asked.uniform or not named or named - blocks else lab.blocks
