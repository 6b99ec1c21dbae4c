"""What a run takes in memory: a bar a plan, from its pass alone on the machine.

The model as it is stored; what is trained, with gradients and the optimiser's moments; and what
else a step holds at its peak: activations and one decoded matrix. The tokenised data, which is
there before, is drawn but belongs to no recorded peak. A plan without a pass alone shows its peak
undivided.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes

from lowbit.report.figures import bars
from lowbit.study.cells import Cell, Setting

LOOK = bars.Look(
    axis="memory of a run with packed weights, above the idle interpreter",
    parts=("data", "stored model", "trained, with moments", "activations", "undivided"),
    fills=("#dedede", "#0072b2", "#56b4e9", "#e69f00", "#999999"),
    hatches=("", "", "xx", "///", "..."),
)


@dataclass(frozen=True)
class Peak:
    """One plan's bytes in the order of LOOK's parts."""

    plan: str
    parts: tuple[float, float, float, float, float]

    @property
    def total(self) -> float:
        return sum(self.parts)


def data(setting: Setting) -> tuple[Peak, ...]:
    """One bar for each plan that finished."""
    return tuple(peak(cell) for cell in setting.cells if cell.done)


def peak(cell: Cell) -> Peak:
    costs = [cost for run in cell.runs if (cost := run.isolated_cost)]
    if not costs:
        peaks = [run.record.cost.peak_bytes for run in cell.done.values()]
        return Peak(cell.plan, (0.0, 0.0, 0.0, 0.0, float(max(peaks))))
    cost = costs[0]
    weights, trained = float(cost.weights_bytes), float(cost.trained_bytes)
    step = max(0.0, cost.peak_bytes - weights - trained)
    return Peak(cell.plan, (float(cost.data_bytes), weights, trained, step, 0.0))


def draw(ax: Axes, data: tuple[Peak, ...]) -> None:
    bars.draw(ax, data, LOOK)
