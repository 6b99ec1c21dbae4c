"""What a configuration costs when it has the machine to itself.

Runs that share a machine slow each other down, so their own times say little; and runs that keep
decoded copies of their matrices, for speed, take memory that says nothing of the plan. After such
runs, each configuration (a model, a task, a plan, whatever the seed) gets ten steps alone as they
were run, and a few with every matrix packed and freed memory handed back at once: what an
allocator keeps differs by a tenth from pass to pass, what is needed by a hundredth. Tables take
speed from the one and memory from the other. `results/solo/CONFIGURATION.json`; no torch here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lowbit.core.execution import Execution
from lowbit.core.files import to_json, write_atomic
from lowbit.core.spec import RunSpec
from lowbit.runs.record import Cost, Record
from lowbit.runs.run_cost import RunCost

FOLDER = "solo"


@dataclass(frozen=True)
class Solo:
    """Cost of one configuration alone; `declared` is what it was measured for.

    Of the peak, `weights_bytes` are the stored model and `trained_bytes` what is trained, with
    gradients and moments; the tokenised data lies beside it. `decoded_peak_bytes`: the peak with
    decoded copies kept, where the runs kept them; 0 where they did not. `total_s`, `cpu_s` and
    `gpu_s` are what a whole run would take at this pace.
    """

    peak_bytes: int
    decoded_peak_bytes: int
    weights_bytes: int
    trained_bytes: int
    data_bytes: int
    total_s: float
    cpu_s: float
    gpu_s: float
    tokens_per_s: float
    step_s: float
    compute: str
    sparing: bool
    """Whether freed memory was handed back while the peak was taken: older passes kept it."""
    declared: dict[str, Any]


def name(run: RunSpec) -> str:
    """A configuration's name: a run's, without its seed."""
    return run.name.removesuffix(f"-seed{run.seed}")


def configuration(name: str, seed: int) -> str:
    """The configuration's name, of a run's name."""
    return name.removesuffix(f"-seed{seed}")


def path_of(folder: Path, seed: int) -> Path:
    """The file of a run's configuration, next to the runs' folders."""
    return folder.parent / FOLDER / f"{configuration(folder.name, seed)}.json"


def missing(record: Record, cost: Solo | None) -> bool:
    """Whether a run's own cost says too little, and its configuration was not measured alone."""
    telling = record.cost.timed == "alone" and record.facts.residency == "packed"
    return not telling and cost is None


def measure(
    measure_cost: Callable[[RunSpec, Execution, bool], RunCost],
    run: RunSpec,
    execution: Execution,
) -> Solo:
    """Measure twice: with the runs' own settings, and with the least memory."""
    cost, decoded = measure_cost(run, execution, True), 0
    if execution.residency == "decoded":
        decoded = cost.peak_bytes
    packed = measure_cost(run, replace(execution, residency="packed", sparing=True), False)
    return Solo(
        peak_bytes=packed.peak_bytes,
        decoded_peak_bytes=decoded,
        weights_bytes=cost.weights_bytes,
        trained_bytes=cost.trained_bytes,
        data_bytes=cost.data_bytes,
        total_s=round(cost.total_s, 1),
        cpu_s=round(cost.cpu_s, 1),
        gpu_s=round(cost.gpu_s, 1),
        tokens_per_s=cost.tokens_per_s,
        step_s=cost.step_s,
        compute=cost.compute,
        sparing=True,
        declared=_declared(run.declared()),
    )


def write(folder: Path, run: RunSpec, cost: Solo) -> None:
    path = path_of(folder, run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (to_json(asdict(cost)) + "\n").encode())


def parse(text: str, record: Record) -> Solo | None:
    """The cost that a file holds; None where it is torn or belongs to other settings."""
    try:
        cost = Solo(**json.loads(text))
    except (ValueError, TypeError):
        return None
    same = cost.declared == _declared(record.spec) and cost.compute == record.facts.compute
    return cost if same else None


def combined(record: Record, isolated: Solo | None) -> Cost:
    """A run's cost. Where its configuration was measured alone, memory comes from there, and time
    too if the run shared the machine.
    """
    if isolated is None:
        return record.cost
    packed = replace(record.cost, peak_bytes=isolated.peak_bytes)
    if record.cost.timed == "alone":
        return packed
    return replace(
        packed,
        wall_s=isolated.total_s,
        cpu_s=isolated.cpu_s,
        gpu_s=isolated.gpu_s,
        tokens_per_s=isolated.tokens_per_s,
        timed="alone",
    )


def _declared(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "seed"}
