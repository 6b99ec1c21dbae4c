"""The progress chart: screening perplexity of every trial, and the best program so far.

The upper panel shows one seed of every trial. Crashes have no score and are ticks at the bottom.
Trials far worse than the first program are triangles at the top, so that they do not compress
the scale. The lower panel shows the best program so far on confirmation text. Several campaigns
share one chart, each in its own colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from lowbit.report.figures.style import COLOURS, RC, WIDTH, dash, plain

Points = Sequence[tuple[int, float | None, str]]
Steps = Sequence[tuple[int, float]]
BEYOND = 1.5
"""A trial above this multiple of the first program's perplexity is drawn as a triangle."""


@dataclass(frozen=True)
class CampaignLine:
    """One campaign: (trial, perplexity) by status, and of the best program on confirmation text."""

    name: str
    keeps: tuple[tuple[int, float], ...]
    discarded: tuple[tuple[int, float], ...]
    crashed: tuple[int, ...]
    best: tuple[tuple[int, float], ...]
    last: int


def data(campaigns: Mapping[str, tuple[Points, Steps]]) -> tuple[CampaignLine, ...]:
    """Lines from (trial, loss, status) and from (trial, loss) of the best so far, per campaign."""
    return tuple(_line(name, *both) for name, both in campaigns.items())


def _line(name: str, points: Points, steps: Steps) -> CampaignLine:
    def of(status: str) -> tuple[tuple[int, float], ...]:
        return tuple((n, _perplexity(loss)) for n, loss, own in points
                     if own == status and loss is not None)  # fmt: skip

    crashed = tuple(n for n, _, status in points if status == "crash")
    last = max((n for n, _, _ in points), default=0)
    best = tuple((n, _perplexity(loss)) for n, loss in steps)
    return CampaignLine(name, of("keep"), of("discard"), crashed, best, last)


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def draw(ax: Axes, data: Sequence[CampaignLine]) -> None:
    """Draw one seed of every trial, trained for a fixed time."""
    top = max((BEYOND * line.keeps[0][1] for line in data if line.keeps), default=math.inf)
    for i, line in enumerate(data):
        colour, foot = _colour(i), ax.get_xaxis_transform()
        inside = [point for point in line.discarded if point[1] <= top]
        beyond = [number for number, value in line.discarded if value > top]
        if inside:
            ax.plot(*zip(*inside, strict=True), "o", ms=3.5, mfc="white", mec=colour, alpha=0.6)
        if beyond:
            ax.plot(beyond, [0.97] * len(beyond), "^", ms=4, color=colour, transform=foot)
        if line.crashed:
            low = [0.02] * len(line.crashed)
            ax.plot(line.crashed, low, "|", ms=7, color=colour, transform=foot)
        if line.keeps:
            ax.plot(*zip(*line.keeps, strict=True), "o", ms=5, color=colour, label=plain(line.name))
    ax.set_ylabel("perplexity,\nscreening, one seed")
    _scale(ax)
    if len(data) > 1:
        ax.legend(loc="upper right")


def draw_best(ax: Axes, data: Sequence[CampaignLine]) -> None:
    """Draw the best program so far, on confirmation text."""
    for i, line in enumerate(data):
        if line.best:
            steps = [*line.best, (line.last, line.best[-1][1])]
            ax.step(*zip(*steps, strict=True), where="post", color=_colour(i), ls=dash(i), lw=1.5)
            ax.plot(*zip(*line.best, strict=True), "o", ms=4, color=_colour(i))
    ax.set_xlabel("trial")
    ax.set_ylabel("perplexity,\nconfirmation")
    _scale(ax)


def _colour(i: int) -> str:
    return COLOURS[(i + 1) % len(COLOURS)]


def _scale(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def image(lines: Sequence[CampaignLine], kind: str) -> bytes:
    """The chart as png, pdf or svg, without a date, so that equal data give equal bytes."""
    with rc_context({**RC, "svg.hashsalt": "lowbit"}):
        has_keeps = any(line.best for line in lines)
        figure = Figure((WIDTH, 4.6 if has_keeps else 3.2), layout="constrained")
        above, *below = figure.subplots(
            1 + has_keeps, 1, sharex=True, squeeze=False, height_ratios=[3, 2][: 1 + has_keeps]
        )[:, 0]
        draw(above, lines)
        for ax in below:
            draw_best(ax, lines)
        if not has_keeps:
            above.set_xlabel("trial")
        out = BytesIO()
        blank = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        figure.savefig(out, format=kind, dpi=200, metadata=blank)
    return out.getvalue()
