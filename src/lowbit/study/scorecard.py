"""Predictions judged by a criterion that was fixed before.

A cell is resolvable where the standard error of its observed gap and the spread of its prediction
are each at most 5 % of it; of these at least 80 % are to be within 10 %, none beyond 25 %. Every
other cell is judged by its interval alone: |predicted - observed| <= 1.96 sqrt(se^2 + spread^2),
of which at least 90 % are to hold. The baselines (weight error, 4^-b) have one constant each, from
the anchor's KL on calibration text; nothing is fitted to what is scored. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowbit.core.stats import correlation_of_decades
from lowbit.study.predicted_vs_observed import BASELINES, PREDICTORS, TRUSTED, Cell

CLOSE, FAR = 0.10, 0.25
ENOUGH, COVERED = 0.80, 0.90


@dataclass(frozen=True)
class Score:
    """How one predictor did on one kind of gap."""

    kind: str
    predictor: str
    cells: int
    resolvable: int
    close: int
    far: int
    covered: int
    correlation: float | None
    correlated: int
    """Cells that the correlation is over: logarithms need both gaps to be positive."""
    factor: float | None
    """By how much it is typically off, as a factor: exp of the mean |log(predicted / observed)|."""
    beaten: bool = True
    """Whether it is off by less than both baselines."""

    @property
    def met(self) -> bool | None:
        """Whether the criterion held; None where no cell could be resolved and all intervals did.

        A predictor that a baseline equals has met nothing.
        """
        rest = self.cells - self.resolvable
        if self.covered < COVERED * rest:
            return False
        if not self.resolvable:
            return None
        return self.close >= ENOUGH * self.resolvable and not self.far and self.beaten


def scores(found: Sequence[Cell]) -> list[Score]:
    """Every kind of gap by every predictor."""
    made = []
    for kind in dict.fromkeys(cell.kind for cell in found):
        mine = [cell for cell in found if cell.kind == kind]
        each = {name: _score(kind, name, mine) for name in PREDICTORS}
        best = min((f for name in BASELINES if (f := each[name].factor) is not None), default=None)
        made += [replace(one, beaten=_beats(one, best)) for one in each.values()]
    return made


def _beats(one: Score, best: float | None) -> bool:
    return one.factor is not None and (best is None or one.factor < best)


def _factor(predictor: str, found: Sequence[Cell]) -> float | None:
    """Over the cells that are observed sharply; a gap of the wrong sign counts as a hundredfold."""
    away = [
        abs(math.log(ratio)) if (ratio := cell.foreseen[predictor].gap / cell.observed) > 0
        else math.log(100)
        for cell in found
        if cell.seen and cell.observed
    ]  # fmt: skip
    return math.exp(sum(away) / len(away)) if away else None


def _score(kind: str, predictor: str, found: Sequence[Cell]) -> Score:
    sharp = [cell for cell in found if cell.resolvable(predictor)]
    rest = [cell for cell in found if not cell.resolvable(predictor)]
    pairs = [(cell.observed, cell.foreseen[predictor].gap) for cell in found]
    correlation, correlated = correlation_of_decades(pairs)
    return Score(
        kind=kind,
        predictor=predictor,
        cells=len(found),
        resolvable=len(sharp),
        close=sum(abs(cell.off(predictor)) <= CLOSE for cell in sharp),
        far=sum(abs(cell.off(predictor)) > FAR for cell in sharp),
        covered=sum(cell.within(predictor) for cell in rest),
        correlation=correlation,
        correlated=correlated,
        factor=_factor(predictor, found),
    )


def unresolved(found: Sequence[Cell], predictor: str = TRUSTED) -> list[Cell]:
    """Cells off by more than 10 % that cannot say so yet, and could with more seeds."""
    return [cell for cell in found if abs(cell.off(predictor)) > CLOSE and cell.by_seeds]


def short_of_text(found: Sequence[Cell], most: float, predictor: str = TRUSTED) -> list[Cell]:
    """Cells off by more than 10 % that could say so with more scored text, up to so many times."""
    off = [cell for cell in found if abs(cell.off(predictor)) > CLOSE]
    return [cell for cell in off if not cell.seen and cell.by_text <= most]


def vaguely_foretold(found: Sequence[Cell], predictor: str = TRUSTED) -> list[Cell]:
    """Cells off by more than 10 % that are observed sharply, but not predicted so."""
    off = [cell for cell in found if abs(cell.off(predictor)) > CLOSE]
    return [cell for cell in off if cell.seen and not cell.resolvable(predictor)]
