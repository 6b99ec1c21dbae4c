"""Scores of untrained models, and the comparison of two of them. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lowbit.core.stats import Floats, Gap, ratio


@dataclass(frozen=True, eq=False)
class UntrainedScores:
    """Scores on one split, each array (examples,); `stored` is the stored bytes of the model."""

    metric: str
    better: str
    loss: float
    sums: Floats
    counts: Floats
    documents: Floats
    words: Floats
    stored: int

    @property
    def value(self) -> float:
        """The metric over the whole split."""
        return float(ratio(self.sums, self.counts))


@dataclass(frozen=True)
class Comparison:
    """Scores of a plan's model and of the 16-bit model, and their gap, paired by document."""

    plan: UntrainedScores
    full_precision: UntrainedScores
    gap: Gap
