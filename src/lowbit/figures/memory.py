"""What a run takes in memory: a bar a plan, from its pass alone on the machine.

The stored model, and what a step adds to it: activations, gradients, the optimiser's moments, and
one decoded matrix (or, where residency is decoded, all of them). The tokenised data lies beside
and is in no bar's peak. A plan without a pass alone shows its peak undivided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lowbit import solo
from lowbit.cells import Cell, Setting
from lowbit.figures.look import INK, megabytes, plain

PARTS = ("data", "weights", "step", "undivided")
NAMES = ("tokenised data", "stored model", "the step on top", "peak, undivided")
FILLS, HATCHES = ("#dedede", "#0072b2", "#e69f00", "#999999"), ("", "", "///", "...")


@dataclass(frozen=True)
class Peak:
    """One plan's bytes in the order of PARTS."""

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


def height(data: tuple[Peak, ...]) -> float:
    return 1.0 + 0.27 * max(1, len(data))


def draw(ax: Axes, data: tuple[Peak, ...]) -> None:
    """Bars from the first plan down, totals at the ends."""
    places, left = range(len(data)), [0.0] * len(data)
    for i, name in enumerate(NAMES):
        widths = [peak.parts[i] for peak in data]
        if any(widths):
            look: dict[str, Any] = {"color": FILLS[i], "hatch": HATCHES[i], "edgecolor": "white"}
            ax.barh(places, widths, left=left, height=0.7, label=name, linewidth=0.6, **look)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, total in zip(places, left, strict=True):
        at: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points"}
        ax.annotate(megabytes(total), (total, place), va="center", fontsize=8, color=INK, **at)
    ax.set_yticks(places, [plain(peak.plan) for peak in data])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.invert_yaxis()
    ax.set_xlabel("memory of a run, above the idle interpreter")
    ax.set_xlim(0, 1.14 * max([*left, 1.0]))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(megabytes))
    ax.legend(ncols=len(PARTS), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2,
              handlelength=1.2, columnspacing=1.2, borderpad=0.2)  # fmt: skip
