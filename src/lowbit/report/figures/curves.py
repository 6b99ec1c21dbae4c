"""Training loss over steps, one line per plan, and the loss on the selection split.

Thin lines are seeds. The thick line is their mean over the steps that all seeds logged. Circles are
the mean on the selection split. A plan whose runs all diverged has only thin lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lowbit.report.figures.style import GREY, colour, dash, plain
from lowbit.study.cells import Cell, Setting

Series = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Curve:
    """One plan: (step, loss) of each seed, their mean, and the mean selection points."""

    plan: str
    seeds: tuple[Series, ...]
    mean: Series
    selection: Series


@dataclass(frozen=True)
class Curves:
    """The curves of one setting. `alike`: the selection score is a loss too and shares the axis."""

    curves: tuple[Curve, ...]
    alike: bool


def data(setting: Setting) -> Curves:
    """The curves of every plan, from its runs' logs."""
    return Curves(tuple(_curve(cell) for cell in setting.cells), setting.metric == "loss")


def _curve(cell: Cell) -> Curve:
    seeds = tuple(_series(run.log, "loss") for run in cell.runs)
    finished = [run.log for run in cell.done.values()]
    return Curve(
        plan=cell.plan,
        seeds=seeds,
        mean=_mean([_series(log, "loss") for log in finished]),
        selection=_mean([_series(log, "selection") for log in finished]),
    )


def _series(log: Sequence[dict[str, Any]], key: str) -> Series:
    """(step, value) of the log lines with a finite value for a key."""
    points = ((int(line["step"] or 0), line.get(key)) for line in log)
    return tuple((step, v) for step, v in points if v is not None and math.isfinite(v))


def _mean(seeds: Sequence[Series]) -> Series:
    """The mean over the steps that every seed has."""
    if not seeds:
        return ()
    values = [dict(series) for series in seeds]
    common = set.intersection(*(set(v) for v in values))
    return tuple((step, sum(v[step] for v in values) / len(values)) for step in sorted(common))


def draw(ax: Axes, data: Curves) -> None:
    """Draw the curves, with plan names at the right."""
    ax.set_xlabel("step")
    ax.set_ylabel("training loss")
    ends = []
    for i, curve in enumerate(data.curves):
        for series in curve.seeds:
            _line(ax, series, color=colour(i), lw=0.5, alpha=0.45)
        _line(ax, curve.mean, color=colour(i), ls=dash(i), lw=1.5, zorder=3)
        if data.alike and curve.selection:
            steps, values = zip(*curve.selection, strict=True)
            ax.plot(steps, values, "o", ms=4, mfc="white", mec=colour(i), zorder=4)
        longest = max((curve.mean, *curve.seeds), key=len)
        if longest:
            name = plain(curve.plan) if curve.mean else f"{plain(curve.plan, 18)}, diverged"
            ends.append((*longest[-1], name, colour(i)))
    _frame(ax, data)
    if data.alike:
        hollow: dict[str, Any] = {"marker": "o", "ms": 4, "mfc": "white", "mec": GREY}
        handles = [Line2D([], [], color=GREY, lw=1.5), Line2D([], [], ls="", **hollow)]
        ax.legend(handles, ["training", "selection split"], loc="upper right")
    _name_ends(ax, ends)


def _line(ax: Axes, series: Series, **look: Any) -> None:
    if series:
        ax.plot(*zip(*series, strict=True), **look)


def _frame(ax: Axes, data: Curves) -> None:
    if reach := limits(data):
        ax.set_ylim(*reach)


def limits(data: Curves) -> tuple[float, float] | None:
    """The limits of the loss axis, from plans with finished runs; others may leave the frame."""
    values = [v for c in data.curves for part in _frame_parts(c, data.alike) for _, v in part]
    if not values:
        return None
    room = 0.06 * (max(values) - min(values)) or 0.1
    return min(values) - room, max(values) + room


def _frame_parts(curve: Curve, alike: bool) -> tuple[Series, ...]:
    selection = (curve.selection,) if alike else ()
    return (*curve.seeds, *selection) if curve.mean else ()


def _name_ends(ax: Axes, ends: Sequence[tuple[int, float, str, str]]) -> None:
    """Write the names in a column right of the frame, each with a line to the end of its curve."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    low, high = ax.get_ylim()
    ordered = sorted(ends, key=lambda end: end[1])
    heights = [min(1.0, max(0.0, (value - low) / (high - low))) for _, value, _, _ in ordered]
    line = 10.5 * figure.dpi / 72 / ax.get_window_extent().height
    for (step, value, name, hue), place in zip(ordered, spread(heights, line), strict=True):
        ax.annotate(
            name,
            (step, min(high, max(low, value))),
            xytext=(1.04, place),
            textcoords=ax.transAxes,
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": hue, "lw": 0.8, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Move ascending places as little as possible so that neighbours are at least `apart`.

    Places that would be too close form a cluster, which is centred on its mean.
    """
    clusters: list[list[float]] = []
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and _low(clusters[-1], apart) < _high(clusters[-2], apart) + apart:
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [_low(c, apart) + i * apart for c in clusters for i in range(len(c))]


def _low(cluster: Sequence[float], apart: float) -> float:
    height = apart * (len(cluster) - 1)
    return max(0.0, min(1.0 - height, sum(cluster) / len(cluster) - height / 2))


def _high(cluster: Sequence[float], apart: float) -> float:
    return _low(cluster, apart) + apart * (len(cluster) - 1)
