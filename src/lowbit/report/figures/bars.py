"""One bar a plan, stacked: what the figures of bytes at rest and of memory in a run share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lowbit.report.figures.style import INK, megabytes, plain


class Stack(Protocol):
    """A plan and its parts, in the order of the look's."""

    @property
    def plan(self) -> str: ...
    @property
    def parts(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Look:
    """What the parts are called and how they are filled, and what the axis says."""

    axis: str
    parts: tuple[str, ...]
    fills: tuple[str, ...]
    hatches: tuple[str, ...]


def height(data: Sequence[Stack]) -> float:
    """Inches: a line for each bar, and the axis."""
    return 1.0 + 0.27 * max(1, len(data))


def draw(ax: Axes, data: Sequence[Stack], look: Look) -> None:
    """Bars from the first plan down, parts named above, totals at the ends."""
    places, left = range(len(data)), [0.0] * len(data)
    for i, part in enumerate(look.parts):
        widths = [bar.parts[i] for bar in data]
        if any(widths):
            fill: dict[str, Any] = {"color": look.fills[i], "hatch": look.hatches[i]}
            ax.barh(places, widths, left=left, height=0.7, label=part, linewidth=0.6,
                    edgecolor="white", **fill)  # fmt: skip
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, total in zip(places, left, strict=True):
        at: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points"}
        ax.annotate(megabytes(total), (total, place), va="center", fontsize=8, color=INK, **at)
    ax.set_yticks(places, [plain(bar.plan) for bar in data])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.invert_yaxis()
    ax.set_xlabel(look.axis)
    ax.set_xlim(0, 1.14 * max([*left, 1.0]))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(megabytes))
    ax.legend(ncols=len(look.parts), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2,
              handlelength=1.2, columnspacing=1.2, borderpad=0.2)  # fmt: skip
