"""Gradient norms by layer, one line per plan.

The norm covers all trained parameters of a layer, before clipping. It is the geometric mean over
the logged steps after the warm-up, and over seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lowbit.report.figures.style import colour, dash, plain
from lowbit.study.cells import Cell, Setting


@dataclass(frozen=True)
class Norms:
    """One plan's (layer, norm) pairs."""

    plan: str
    points: tuple[tuple[int, float], ...]


def data(setting: Setting) -> tuple[Norms, ...]:
    """The norms of the plans whose logs have them by layer."""
    plans = (Norms(cell.plan, _points(cell)) for cell in setting.cells)
    return tuple(norms for norms in plans if norms.points)


def _points(cell: Cell) -> tuple[tuple[int, float], ...]:
    logs: dict[int, list[float]] = {}
    for run in cell.done.values():
        rows = [row for row in run.log if row.get("grad_norms")]
        warm = run.record.spec["train"]["warmup"] * max((r["step"] for r in rows), default=0)
        for row in rows:
            if row["step"] > warm:
                for key, norm in row["grad_norms"].items():
                    if key.isdecimal() and norm > 0:
                        logs.setdefault(int(key), []).append(math.log(norm))
    return tuple((layer, math.exp(fmean(logs[layer]))) for layer in sorted(logs))


def draw(ax: Axes, data: tuple[Norms, ...]) -> None:
    ax.set_xlabel("layer")
    ax.set_ylabel("gradient norm")
    if data:
        ax.set_yscale("log")
    for i, norms in enumerate(data):
        xs, ys = zip(*norms.points, strict=True)
        ax.plot(
            xs, ys, color=colour(i), ls=dash(i), lw=1.4, marker="o", ms=3.5, label=plain(norms.plan)
        )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if data:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
