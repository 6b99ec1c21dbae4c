"""Predicted gaps over observed gaps, in nats on logarithmic axes.

The predictor is the trusted closed form unless the caller names another one. A prediction on the
line is exact; the band is 10 % to either side. Filled marks are resolvable cells. Bars are the 95 %
intervals of both values. A note in the corner counts the gaps that are not positive, which cannot
be drawn, and those with fewer seeds than declared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from lowbit.report.figures.style import COLOURS, GREY, INK, decades
from lowbit.sensitivity.predictors import NAMES, RUN
from lowbit.study.predicted_vs_observed import TRUSTED, PredictedGap

MARKS = {"untrained": "o", "transplanted": "s", "adapted": "^"}


@dataclass(frozen=True)
class Mark:
    """One cell with the prediction of one predictor."""

    kind: str
    plan: str
    observed: float
    se: float
    predicted: float
    spread: float
    sharp: bool


@dataclass(frozen=True)
class Predicted:
    """The marks of one predictor, and the numbers of gaps not drawn and of gaps that lack seeds."""

    predictor: str
    marks: tuple[Mark, ...]
    left_out: int
    unfinished: int = 0


def data(cells: Sequence[PredictedGap], predictor: str = TRUSTED) -> Predicted:
    marks = []
    for cell in cells:
        prediction = cell.predictions[predictor]
        if cell.observed > 0 and prediction.gap > 0:
            sharp = cell.resolvable(predictor)
            marks.append(Mark(cell.kind, cell.plan, cell.observed, cell.se, prediction.gap,
                              prediction.spread, sharp))  # fmt: skip
    unfinished = sum(cell.unfinished for cell in cells)
    return Predicted(predictor, tuple(marks), len(cells) - len(marks), unfinished)


def draw(ax: Axes, data: Predicted) -> None:
    values = [v for mark in data.marks for v in (mark.observed, mark.predicted)]
    if not values:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no positive gap to draw", ha="center", color=INK)
        return
    low, high = min(values) / 1.6, max(values) * 1.6
    ax.fill_between([low, high], [0.9 * low, 0.9 * high], [1.1 * low, 1.1 * high],
                    color=GREY, alpha=0.2, lw=0)  # fmt: skip
    ax.plot([low, high], [low, high], color=GREY, lw=0.8)
    for i, (kind, shape) in enumerate(MARKS.items()):
        of_kind = [mark for mark in data.marks if mark.kind == kind]
        for mark in of_kind:
            wide, tall = min(1.96 * mark.se, 0.95 * mark.observed), 1.96 * mark.spread
            ax.errorbar(mark.observed, mark.predicted, xerr=wide,
                        yerr=min(tall, 0.95 * mark.predicted), fmt=shape, ms=5, lw=0.8,
                        color=COLOURS[i], mfc=COLOURS[i] if mark.sharp else "white")  # fmt: skip
        if of_kind:
            ax.plot([], [], shape, color=COLOURS[i], label=kind)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    decades(ax.xaxis)
    decades(ax.yaxis)
    ax.set_xlabel("observed gap, nats")
    how = NAMES.get(data.predictor, data.predictor) + " (run)" * (data.predictor in RUN)
    ax.set_ylabel(f"predicted gap, nats: {how}")
    ax.legend(loc="upper left")
    notes = [f"{data.left_out} gaps not positive"] * bool(data.left_out)
    notes += [f"{data.unfinished} lack seeds: not final"] * bool(data.unfinished)
    ax.text(0.98, 0.03, "\n".join(notes), transform=ax.transAxes, ha="right", fontsize=7, color=INK)
