"""What a configuration costs when it has the machine to itself.

Runs that share a machine slow each other down, so their own times say little. After them, each
configuration (a model, a task, a plan, whatever the seed) gets ten steps alone, and tables take
memory and speed from there. `results/solo/CONFIGURATION.json`; no torch here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lowbit.files import to_json, write_atomic
from lowbit.record import Cost, Record
from lowbit.spec import RunSpec

FOLDER = "solo"


class Found(Protocol):
    """What a probe of ten steps tells (`probe.Probe`)."""

    @property
    def peak_bytes(self) -> int: ...
    @property
    def weights_bytes(self) -> int: ...
    @property
    def data_bytes(self) -> int: ...
    @property
    def total_s(self) -> float: ...
    @property
    def cpu_s(self) -> float: ...
    @property
    def gpu_s(self) -> float: ...
    @property
    def tokens_per_s(self) -> float: ...
    @property
    def step_s(self) -> float: ...
    @property
    def compute(self) -> str: ...


@dataclass(frozen=True)
class Solo:
    """Cost of one configuration alone; `declared` is what it was measured for.

    Of the peak, `weights_bytes` are the stored model; the tokenised data lies beside it. `total_s`,
    `cpu_s` and `gpu_s` are what a whole run would take at this pace.
    """

    peak_bytes: int
    weights_bytes: int
    data_bytes: int
    total_s: float
    cpu_s: float
    gpu_s: float
    tokens_per_s: float
    step_s: float
    compute: str
    declared: dict[str, Any]


def name(run: RunSpec) -> str:
    """A configuration's name: a run's, without its seed."""
    return run.name.removesuffix(f"-seed{run.seed}")


def path_of(folder: Path, seed: int) -> Path:
    """Beside the runs' folders."""
    return folder.parent / FOLDER / f"{folder.name.removesuffix(f'-seed{seed}')}.json"


def write(folder: Path, run: RunSpec, found: Found) -> None:
    known = Solo(
        found.peak_bytes,
        found.weights_bytes,
        found.data_bytes,
        round(found.total_s, 1),
        round(found.cpu_s, 1),
        round(found.gpu_s, 1),
        found.tokens_per_s,
        found.step_s,
        found.compute,
        _declared(run.declared()),
    )
    path = path_of(folder, run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (to_json(asdict(known)) + "\n").encode())


def read(folder: Path, record: Record) -> Solo | None:
    """The pass of a record's configuration; None if there is none, or one of other settings."""
    try:
        found = Solo(**json.loads(path_of(folder, record.seed).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    same = found.declared == _declared(record.spec) and found.compute == record.facts.compute
    return found if same else None


def alone(folder: Path, record: Record) -> Cost:
    """A run's cost; where it shared the machine, memory and speed of its pass alone."""
    known = read(folder, record) if record.cost.timed == "shared" else None
    if known is None:
        return record.cost
    return replace(
        record.cost,
        peak_bytes=known.peak_bytes,
        tokens_per_s=known.tokens_per_s,
        timed="alone",
    )


def _declared(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "seed"}
