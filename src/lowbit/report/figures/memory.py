"""Peak memory of a run, one bar per plan, from the isolated cost of its configuration.

The parts are the stored model, the trained parameters with gradients and optimiser moments, and the
rest of a step: activations and one decoded matrix. The tokenised data is drawn too, although it is
not part of a recorded peak. A plan without an isolated cost shows its peak as one part.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes

from lowbit.report.figures import bars
from lowbit.study.cells import Cell, Setting

STYLE = bars.BarStyle(
    axis="memory of a run with packed weights, above the idle interpreter",
    parts=("data", "stored model", "trained, with moments", "activations", "undivided"),
    fills=("#dedede", "#0072b2", "#56b4e9", "#e69f00", "#999999"),
    hatches=("", "", "xx", "///", "..."),
)


@dataclass(frozen=True)
class Peak:
    """One plan's bytes, in the order of the style's parts."""

    plan: str
    parts: tuple[float, float, float, float, float]

    @property
    def total(self) -> float:
        return sum(self.parts)


def data(setting: Setting) -> tuple[Peak, ...]:
    """One bar for each plan that finished."""
    return tuple(peak(cell) for cell in setting.cells if cell.done)


def peak(cell: Cell) -> Peak:
    """The memory of one plan, from its isolated cost if there is one."""
    costs = [cost for run in cell.runs if (cost := run.isolated_cost)]
    if not costs:
        peaks = [run.record.cost.peak_bytes for run in cell.done.values()]
        return Peak(cell.plan, (0.0, 0.0, 0.0, 0.0, float(max(peaks))))
    cost = costs[0]
    weights, trained = float(cost.weights_bytes), float(cost.trained_bytes)
    step = max(0.0, cost.peak_bytes - weights - trained)
    return Peak(cell.plan, (float(cost.data_bytes), weights, trained, step, 0.0))


def draw(ax: Axes, data: tuple[Peak, ...]) -> None:
    bars.draw(ax, data, STYLE)
