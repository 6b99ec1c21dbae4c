"""Predicted loss increase after training over stored bytes.

The line joins the corners of the exact frontier: plans that are optimal for their own bytes. Hollow
squares are uniform plans that no smaller uniform plan beats, some with format and rank. The filled
circle is the chosen plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lowbit.report.figures.style import COLOURS, GREY, decades, megabytes, place_labels


@dataclass(frozen=True)
class Frontier:
    """(bytes, nats) of the corners and of the chosen plan; (name, bytes, nats) of uniform plans."""

    corners: tuple[tuple[int, float], ...]
    uniform: tuple[tuple[str, int, float], ...]
    chosen: tuple[int, float]
    budget: int


def draw(ax: Axes, data: Frontier) -> None:
    """Draw the frontier; values below 1e-4 of the largest are raised to that floor."""
    worst = max(cost for _, cost in data.corners)
    least = max(1e-9, worst * 1e-4)
    sizes, costs = zip(*data.corners, strict=True)
    ax.plot(sizes, [max(c, least) for c in costs], color=COLOURS[0], lw=1.4, label="exact plans")
    uniform = [(n, s, max(c, least)) for n, s, c in data.uniform if c > least]
    if uniform:
        ax.plot([s for _, s, _ in uniform], [c for _, _, c in uniform], "s", ms=4, mfc="white",
                mec=GREY, label="uniform plans")  # fmt: skip
    ax.plot([data.chosen[0]], [max(data.chosen[1], least)], "o", ms=6, color=COLOURS[1],
            label="chosen")  # fmt: skip
    ax.axvline(data.budget, color=GREY, lw=0.8, ls=":", label="budget")
    ax.set_yscale("log")
    decades(ax.yaxis)
    ax.set_xlabel("stored bytes")
    ax.set_ylabel("predicted to be left, nats")
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(megabytes))
    ax.legend(loc="upper right")
    corners = [(s, max(c, least)) for s, c in data.corners]
    others = [(s, c) for n, s, c in uniform if not n]
    place_labels(ax, [(s, c, n) for n, s, c in uniform if n], corners + others)
