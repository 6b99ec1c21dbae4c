"""Stacked bars, one per plan, for the figures of stored bytes and of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lowbit.report.figures.style import INK, megabytes, plain


class Stack(Protocol):
    """A plan with its bar's parts, in the order of `BarStyle.parts`."""

    @property
    def plan(self) -> str: ...
    @property
    def parts(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class BarStyle:
    """The names, fills and hatches of the parts, and the label of the axis."""

    axis: str
    parts: tuple[str, ...]
    fills: tuple[str, ...]
    hatches: tuple[str, ...]


def height(data: Sequence[Stack]) -> float:
    """Height in inches: the axis, and a line for each bar."""
    return 1.0 + 0.27 * max(1, len(data))


def draw(ax: Axes, data: Sequence[Stack], style: BarStyle) -> None:
    """Draw the first plan at the top, a legend of the parts above, and totals at the ends."""
    places, left = range(len(data)), [0.0] * len(data)
    for i, part in enumerate(style.parts):
        widths = [bar.parts[i] for bar in data]
        if any(widths):
            fill: dict[str, Any] = {"color": style.fills[i], "hatch": style.hatches[i]}
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
    ax.set_xlabel(style.axis)
    ax.set_xlim(0, 1.14 * max([*left, 1.0]))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(megabytes))
    ax.legend(ncols=len(style.parts), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2,
              handlelength=1.2, columnspacing=1.2, borderpad=0.2)  # fmt: skip
