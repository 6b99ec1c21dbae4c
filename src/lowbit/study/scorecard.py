"""How well each predictor did, by a criterion that was fixed before the runs.

A gap is resolvable where the standard error of its observation and the spread of its prediction
are each at most 5 % of it. Of these, at least 80 % must be within 10 % and none beyond 25 %. Every
other gap is judged by its interval alone: |predicted - observed| <= 1.96 sqrt(se^2 + spread^2)
must hold for at least 90 %. The baselines (weight error, 4^-b) have one constant each, from the
anchor's KL on calibration text; nothing is fitted to what is scored. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowbit.core.stats import correlation_of_decades
from lowbit.study.predicted_vs_observed import BASELINES, PREDICTORS, TRUSTED, PredictedGap

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
    """Gaps that the correlation covers: logarithms need both values to be positive."""
    factor: float | None
    """Its typical error as a factor: exp of the mean |log(predicted / observed)|."""
    beaten: bool = True
    """Whether its typical error is smaller than both baselines'."""

    @property
    def met(self) -> bool | None:
        """Whether the criterion held; None where no gap could be resolved and all intervals did.

        A predictor that a baseline equals has met nothing.
        """
        rest = self.cells - self.resolvable
        if self.covered < COVERED * rest:
            return False
        if not self.resolvable:
            return None
        return self.close >= ENOUGH * self.resolvable and not self.far and self.beaten


def scores(gaps: Sequence[PredictedGap]) -> list[Score]:
    """Every kind of gap by every predictor."""
    result: list[Score] = []
    for kind in dict.fromkeys(gap.kind for gap in gaps):
        of_kind = [gap for gap in gaps if gap.kind == kind]
        each = {name: _score(kind, name, of_kind) for name in PREDICTORS}
        best = min((f for name in BASELINES if (f := each[name].factor) is not None), default=None)
        result += [replace(score, beaten=_beats(score, best)) for score in each.values()]
    return result


def _beats(score: Score, best: float | None) -> bool:
    return score.factor is not None and (best is None or score.factor < best)


def _factor(predictor: str, gaps: Sequence[PredictedGap]) -> float | None:
    """Over the gaps that are observed sharply; a gap of the wrong sign counts as a hundredfold."""
    away = [
        abs(math.log(ratio)) if (ratio := gap.predictions[predictor].gap / gap.observed) > 0
        else math.log(100)
        for gap in gaps
        if gap.sharp and gap.observed
    ]  # fmt: skip
    return math.exp(sum(away) / len(away)) if away else None


def _score(kind: str, predictor: str, gaps: Sequence[PredictedGap]) -> Score:
    sharp = [gap for gap in gaps if gap.resolvable(predictor)]
    rest = [gap for gap in gaps if not gap.resolvable(predictor)]
    pairs = [(gap.observed, gap.predictions[predictor].gap) for gap in gaps]
    correlation, correlated = correlation_of_decades(pairs)
    return Score(
        kind=kind,
        predictor=predictor,
        cells=len(gaps),
        resolvable=len(sharp),
        close=sum(abs(gap.off(predictor)) <= CLOSE for gap in sharp),
        far=sum(abs(gap.off(predictor)) > FAR for gap in sharp),
        covered=sum(gap.within(predictor) for gap in rest),
        correlation=correlation,
        correlated=correlated,
        factor=_factor(predictor, gaps),
    )


def unresolved(gaps: Sequence[PredictedGap], predictor: str = TRUSTED) -> list[PredictedGap]:
    """Gaps off by more than 10 % not sharp yet, that more seeds could make sharp."""
    return [gap for gap in gaps if abs(gap.off(predictor)) > CLOSE and gap.by_seeds]


def short_of_text(
    gaps: Sequence[PredictedGap], most: float, predictor: str = TRUSTED
) -> list[PredictedGap]:
    """Gaps off by more than 10 % that up to `most` times the scored text could make sharp."""
    off = [gap for gap in gaps if abs(gap.off(predictor)) > CLOSE]
    return [gap for gap in off if not gap.sharp and gap.by_text <= most]


def vaguely_predicted(gaps: Sequence[PredictedGap], predictor: str = TRUSTED) -> list[PredictedGap]:
    """Gaps off by more than 10 % that are observed sharply, but not predicted so."""
    off = [gap for gap in gaps if abs(gap.off(predictor)) > CLOSE]
    return [gap for gap in off if gap.sharp and not gap.resolvable(predictor)]
