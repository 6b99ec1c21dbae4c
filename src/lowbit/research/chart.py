"""The progress chart: every trial's screening perplexity, and the staircase of what was kept.

Crashes have no score; they are ticks at the foot. Several campaigns are told apart by colour, and
their trials drawn side by side from the same start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from lowbit.figures.look import COLOURS, RC, WIDTH, dash, plain

Points = Sequence[tuple[int, float | None, str]]


@dataclass(frozen=True)
class Line:
    """(trial, perplexity) of each status, and the corners of the staircase."""

    name: str
    kept: tuple[tuple[int, float], ...]
    discarded: tuple[tuple[int, float], ...]
    crashed: tuple[int, ...]
    last: int


def data(campaigns: Mapping[str, Points]) -> tuple[Line, ...]:
    """From (trial, loss, status) of each campaign."""
    return tuple(_line(name, points) for name, points in campaigns.items())


def _line(name: str, points: Points) -> Line:
    def of(status: str) -> tuple[tuple[int, float], ...]:
        return tuple((n, math.exp(min(loss, 700.0))) for n, loss, is_ in points
                     if is_ == status and loss is not None)  # fmt: skip

    crashed = tuple(n for n, _, status in points if status == "crash")
    last = max((n for n, _, _ in points), default=0)
    return Line(name, of("keep"), of("discard"), crashed, last)


def draw(ax: Axes, data: Sequence[Line]) -> None:
    for i, line in enumerate(data):
        colour = COLOURS[(i + 1) % len(COLOURS)]
        if line.discarded:
            ax.plot(
                *zip(*line.discarded, strict=True), "o", ms=3.5, mfc="white", mec=colour, alpha=0.6
            )
        if line.crashed:
            foot = ax.get_xaxis_transform()
            ax.plot(
                line.crashed, [0.02] * len(line.crashed), "|", ms=7, color=colour, transform=foot
            )
        if line.kept:
            steps = [*line.kept, (line.last, line.kept[-1][1])]
            ax.step(*zip(*steps, strict=True), where="post", color=colour, ls=dash(i), lw=1.5,
                    label=plain(line.name))  # fmt: skip
            ax.plot(*zip(*line.kept, strict=True), "o", ms=5, color=colour)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("trial")
    ax.set_ylabel("perplexity on screening text, one seed")
    handles: Any = ax.get_legend_handles_labels()
    if len(handles[0]) > 1:
        ax.legend(loc="upper right")


def image(lines: Sequence[Line], kind: str) -> bytes:
    """The chart as png or pdf or svg, with nothing in it that depends on the day."""
    with rc_context({**RC, "svg.hashsalt": "lowbit"}):
        figure = Figure((WIDTH, 3.2), layout="constrained")
        draw(figure.add_subplot(), lines)
        out = BytesIO()
        blank = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        figure.savefig(out, format=kind, dpi=200, metadata=blank)
    return out.getvalue()
