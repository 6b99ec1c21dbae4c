"""What a run takes in memory: a bar a plan, from its pass alone on the machine.

The stored model, and what a step adds to it: activations, gradients, the optimiser's moments, and
one decoded matrix (or, where residency is decoded, all of them). The tokenised data, which is
there before, is drawn but belongs to no recorded peak. A plan without a pass alone shows its peak
undivided.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes

from lowbit import solo
from lowbit.cells import Cell, Setting
from lowbit.figures import bars

LOOK = bars.Look(
    axis="memory of a run, above the idle interpreter",
    parts=("tokenised data", "stored model", "the step on top", "peak, undivided"),
    fills=("#dedede", "#0072b2", "#e69f00", "#999999"),
    hatches=("", "", "///", "..."),
)


@dataclass(frozen=True)
class Peak:
    """One plan's bytes in the order of LOOK's parts."""

    plan: str
    parts: tuple[float, float, float, float]

    @property
    def total(self) -> float:
        return sum(self.parts)


def data(setting: Setting) -> tuple[Peak, ...]:
    """One bar for each plan that finished."""
    return tuple(_peak(cell) for cell in setting.cells if cell.done)


def _peak(cell: Cell) -> Peak:
    found = [known for folder, record in cell.runs if (known := solo.read(folder, record))]
    if not found:
        peaks = [record.cost.peak_bytes for _, record in cell.done.values()]
        return Peak(cell.plan, (0.0, 0.0, 0.0, float(max(peaks))))
    one = found[0]
    step = float(max(0, one.peak_bytes - one.weights_bytes))
    return Peak(cell.plan, (float(one.data_bytes), float(one.weights_bytes), step, 0.0))


def draw(ax: Axes, data: tuple[Peak, ...]) -> None:
    bars.draw(ax, data, LOOK)
