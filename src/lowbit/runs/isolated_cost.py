"""The isolated cost of a configuration: its speed and memory when it has the machine to itself.

Runs that share a machine slow each other down, so their own times mean little. Runs that keep
decoded copies of their matrices, for speed, use memory that does not depend on the plan. After such
runs, each configuration (a run without its seed) is measured twice, alone on the machine:

- ten steps with the runs' own settings, which give the speed;
- a few steps with packed matrices and freed memory returned at once, which give the memory. Memory
  that the allocator holds back varies by a tenth between passes, used memory by a hundredth.

The file is `results/solo/CONFIGURATION.json`. No torch here.
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
class IsolatedCost:
    """Speed and memory of one configuration that had the machine to itself.

    The peak includes `weights_bytes`, the stored model, and `trained_bytes`, the trained parameters
    with gradients and optimiser moments. It excludes `data_bytes`, the tokenised data.
    `decoded_peak_bytes` is the peak with decoded copies; 0 if the runs have none. `total_s`,
    `cpu_s` and `gpu_s` are extrapolated to a whole run. `declared` is the run's spec without seed.
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
    """Whether freed memory was returned at once during the measurement; older ones did not."""
    declared: dict[str, Any]


def configuration_name(run_name: str, seed: int) -> str:
    """The name of a run's configuration: the run's name without its seed."""
    return run_name.removesuffix(f"-seed{seed}")


def isolated_cost_path(folder: Path, seed: int) -> Path:
    """The file of a run's configuration, next to the runs' folders."""
    return folder.parent / FOLDER / f"{configuration_name(folder.name, seed)}.json"


def needs_measurement(record: Record, cost: IsolatedCost | None) -> bool:
    """Whether a run's own cost is not comparable and its configuration has no isolated cost yet."""
    comparable = record.cost.timed == "alone" and record.facts.residency == "packed"
    return not comparable and cost is None


def measure_isolated_cost(
    measure_cost: Callable[[RunSpec, Execution, bool], RunCost],
    run: RunSpec,
    execution: Execution,
) -> IsolatedCost:
    """Measure speed with the runs' own settings, and memory with packed matrices."""
    cost, decoded = measure_cost(run, execution, True), 0
    if execution.residency == "decoded":
        decoded = cost.peak_bytes
    packed = measure_cost(run, replace(execution, residency="packed", sparing=True), False)
    return IsolatedCost(
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


def write_isolated_cost(folder: Path, run: RunSpec, cost: IsolatedCost) -> None:
    path = isolated_cost_path(folder, run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (to_json(asdict(cost)) + "\n").encode())


def parse_isolated_cost(text: str, record: Record) -> IsolatedCost | None:
    """The cost in a file's text; None if it is damaged or was measured with other settings."""
    try:
        cost = IsolatedCost(**json.loads(text))
    except (ValueError, TypeError):
        return None
    same = cost.declared == _declared(record.spec) and cost.compute == record.facts.compute
    return cost if same else None


def reported_cost(record: Record, isolated: IsolatedCost | None) -> Cost:
    """The cost that tables report for a run.

    Peak memory comes from the isolated cost if there is one; so do times of a run that shared the
    machine.
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
