"""Scores each predictor by a criterion that was fixed before the runs.

A gap is resolvable if the standard error of its observation and the spread of its prediction are
each at most 5 % of it. At least 80 % of the resolvable gaps must be predicted within 10 %, and none
may be off by more than 25 %. Every other gap is judged by its interval alone:
|predicted - observed| <= 1.96 sqrt(se^2 + spread^2) must hold for at least 90 %. A predictor must
also have a smaller typical error than both baselines (weight error, 4^-b). Each baseline has one
constant, from the anchor's KL on calibration text. Nothing is fitted to the scored text. No torch.
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
    """The score of one predictor on one kind of gap."""

    kind: str
    predictor: str
    cells: int
    resolvable: int
    close: int
    far: int
    covered: int
    correlation: float | None
    correlated: int
    """Number of gaps in the correlation: its logarithms need positive values."""
    factor: float | None
    """Typical error as a factor: exp of the mean |log(predicted / observed)|."""
    beats_baselines: bool = True
    """Whether its typical error is smaller than both baselines'."""

    @property
    def criterion_met(self) -> bool | None:
        """Whether the criterion is met.

        None if no gap is resolvable and enough intervals hold. False if a baseline does as well.
        """
        rest = self.cells - self.resolvable
        if self.covered < COVERED * rest:
            return False
        if not self.resolvable:
            return None
        return self.close >= ENOUGH * self.resolvable and not self.far and self.beats_baselines


def scores(gaps: Sequence[PredictedGap]) -> list[Score]:
    """The score of every predictor on every kind of gap."""
    all_scores: list[Score] = []
    for kind in dict.fromkeys(gap.kind for gap in gaps):
        of_kind = [gap for gap in gaps if gap.kind == kind]
        each = {name: _score(kind, name, of_kind) for name in PREDICTORS}
        best = min((f for name in BASELINES if (f := each[name].factor) is not None), default=None)
        all_scores += [
            replace(score, beats_baselines=_beats(score, best)) for score in each.values()
        ]
    return all_scores


def _beats(score: Score, best: float | None) -> bool:
    return score.factor is not None and (best is None or score.factor < best)


def _factor(predictor: str, gaps: Sequence[PredictedGap]) -> float | None:
    """Typical error over the sharp gaps; a wrong sign counts as a factor of 100."""
    errors = [
        abs(math.log(ratio)) if (ratio := gap.predictions[predictor].gap / gap.observed) > 0
        else math.log(100)
        for gap in gaps
        if gap.sharp and gap.observed
    ]  # fmt: skip
    return math.exp(sum(errors) / len(errors)) if errors else None


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
        close=sum(abs(gap.relative_error(predictor)) <= CLOSE for gap in sharp),
        far=sum(abs(gap.relative_error(predictor)) > FAR for gap in sharp),
        covered=sum(gap.interval_holds(predictor) for gap in rest),
        correlation=correlation,
        correlated=correlated,
        factor=_factor(predictor, gaps),
    )


def gaps_needing_seeds(
    gaps: Sequence[PredictedGap], predictor: str = TRUSTED
) -> list[PredictedGap]:
    """Gaps whose prediction is off by more than 10 % and that more seeds could make sharp."""
    return [
        gap
        for gap in gaps
        if abs(gap.relative_error(predictor)) > CLOSE and gap.seeds_would_resolve
    ]


def gaps_needing_text(
    gaps: Sequence[PredictedGap], most: float, predictor: str = TRUSTED
) -> list[PredictedGap]:
    """Gaps off by more than 10 % that up to `most` times the scored text could make sharp."""
    off = [gap for gap in gaps if abs(gap.relative_error(predictor)) > CLOSE]
    return [gap for gap in off if not gap.sharp and gap.text_factor <= most]


def gaps_needing_calibration(
    gaps: Sequence[PredictedGap], predictor: str = TRUSTED
) -> list[PredictedGap]:
    """Gaps off by more than 10 % that are sharp, but whose prediction is not precise enough."""
    off = [gap for gap in gaps if abs(gap.relative_error(predictor)) > CLOSE]
    return [gap for gap in off if gap.sharp and not gap.resolvable(predictor)]
