"""Loss (or accuracy) over stored bytes, one point per plan.

Small dots are seeds; the marker is their mean with its 95 % interval over seeds. A plan is on the
Pareto front if no other plan is at least as good in both and better in one. The front is drawn as
stairs, because no plan exists between two plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from lowbit.core.paired_tests import mean_interval
from lowbit.report.figures.style import COLOURS, GREY, INK, megabytes, place_labels, plain
from lowbit.study.cells import Cell, Setting


@dataclass(frozen=True)
class Point:
    """One plan: its bytes, its mean, its seeds, and whether it is on the front.

    `interval`: the 95 % interval of the mean over seeds, if there are several.
    """

    plan: str
    bytes: float
    mean: float
    seeds: tuple[float, ...]
    front: bool
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Pareto:
    """The points of one setting; `diverged` lists the plans without a score."""

    metric: str
    better: str
    points: tuple[Point, ...]
    diverged: tuple[str, ...]


def data(setting: Setting) -> Pareto:
    """One point for each plan that has a score."""
    scored = [cell for cell in setting.cells if cell.done]
    places = [_place(cell, setting.metric) for cell in scored]
    flags = front(places, setting.better)
    points = tuple(
        Point(
            cell.plan, size, mean, seeds := _seeds(cell, setting.metric), flag, mean_interval(seeds)
        )
        for cell, (size, mean), flag in zip(scored, places, flags, strict=True)
    )
    diverged = tuple(cell.plan for cell in setting.cells if not cell.done)
    return Pareto(setting.metric, setting.better, points, diverged)


def _seeds(cell: Cell, metric: str) -> tuple[float, ...]:
    return tuple(run.record.metrics[metric] for run in cell.done.values())


def _place(cell: Cell, metric: str) -> tuple[float, float]:
    sizes = [run.record.bytes.stored for run in cell.done.values()]
    values = _seeds(cell, metric)
    return sum(sizes) / len(sizes), sum(values) / len(values)


def front(places: Sequence[tuple[float, float]], better: str) -> list[bool]:
    """For each (bytes, value), whether no other dominates it."""
    sign = 1 if better == "lower" else -1
    costs = [(size, sign * value) for size, value in places]
    return [not any(_dominates(other, cost) for other in costs) for cost in costs]


def _dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return first != second and first[0] <= second[0] and first[1] <= second[1]


def axis_title(metric: str) -> str:
    return "loss, nats per token" if metric == "loss" else f"{metric}, %"


def axis_value(metric: str, value: float) -> float:
    """The value in the unit of the axis."""
    return value if metric == "loss" else 100 * value


def draw(ax: Axes, data: Pareto) -> None:
    """Draw plans on the front filled, and the others hollow and grey."""
    ax.set_xscale("log")
    ax.set_xlabel("stored bytes")
    ax.set_ylabel(axis_title(data.metric))
    if data.diverged:
        ax.set_title("diverged, no score: " + plain(", ".join(data.diverged), 70), color=GREY)
    if not data.points:
        ax.set_xlim(1e5, 1e7)
        return
    _scale(ax, data)
    line = _stairs(ax, data)
    dots = [(p.bytes, axis_value(data.metric, value)) for p in data.points for value in p.seeds]
    xs, ys = zip(*dots, strict=True)
    ax.scatter(xs, ys, s=9, color=INK, edgecolors="white", linewidths=0.5, zorder=3)
    for point in data.points:
        fill, edge = (COLOURS[1], COLOURS[1]) if point.front else ("white", GREY)
        place = (point.bytes, axis_value(data.metric, point.mean))
        if point.interval is not None:
            ends = [axis_value(data.metric, value) for value in point.interval]
            ax.plot([point.bytes] * 2, ends, color=edge, lw=1.1, zorder=1)
        ax.scatter(*place, s=40, color=fill, edgecolors=edge, zorder=2)
    ordered = sorted(data.points, key=lambda p: (not p.front, p.bytes, p.plan))
    named = [(p.bytes, axis_value(data.metric, p.mean), plain(p.plan)) for p in ordered]
    place_labels(ax, named, dots + line)


def _scale(ax: Axes, data: Pareto) -> None:
    """Set axis limits with room for labels, and ticks at round sizes."""
    sizes = [p.bytes for p in data.points]
    values = [
        axis_value(data.metric, value)
        for p in data.points
        for value in (p.mean, *p.seeds, *(p.interval or ()))
    ]
    stretch = max((max(sizes) / min(sizes)) ** 0.12, 1.15)
    ax.set_xlim(min(sizes) / stretch, max(sizes) * stretch)
    room = 0.1 * (max(values) - min(values)) or 0.01 * abs(values[0]) or 0.1
    ax.set_ylim(min(values) - room, max(values) + room)
    ax.xaxis.set_major_locator(_ticks(max(sizes) / min(sizes)))
    ax.xaxis.set_major_formatter(FuncFormatter(megabytes))
    ax.xaxis.set_minor_locator(NullLocator())


def _ticks(reach: float) -> Locator:
    """A locator for about five round sizes, for any range of sizes."""
    if reach < 3:
        return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    return LogLocator(subs=(1, 3) if reach > 30 else (1, 1.5, 2, 3, 5, 7))


def _stairs(ax: Axes, data: Pareto) -> list[tuple[float, float]]:
    """Draw the front; return points along it, which labels must not cover."""
    steps = sorted((p.bytes, axis_value(data.metric, p.mean)) for p in data.points if p.front)
    corners = [c for (x0, y0), (x1, y1) in pairwise(steps) for c in ((x0, y0), (x1, y0), (x1, y1))]
    if corners:
        ax.plot(*zip(*corners, strict=True), color=COLOURS[1], lw=0.9, zorder=1)
    shares = [i / 60 for i in range(61)]
    return [
        (x0 * (x1 / x0) ** t, y0 + t * (y1 - y0))
        for (x0, y0), (x1, y1) in pairwise(corners)
        for t in shares
    ]
