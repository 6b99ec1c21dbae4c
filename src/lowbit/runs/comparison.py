"""Scores of untrained models, and how two of them compare, as plain data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from lowbit.core.stats import Floats, Gap, ratio


@dataclass(frozen=True, eq=False)
class UntrainedScores:
    """Scores of one part of the data, each array (examples,); `stored` is the model's bytes."""

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
        """The metric over the whole part."""
        return float(ratio(self.sums, self.counts))


@dataclass(frozen=True)
class Comparison:
    """A plan's model and the 16-bit model on the same examples; the gap is paired by document."""

    plan: UntrainedScores
    full_precision: UntrainedScores
    gap: Gap
