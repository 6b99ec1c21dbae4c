"""What came of a run: why it has no scores, or its scores by article, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scores:
    """Summed loss and tokens of every article of one part."""

    sums: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def loss(self) -> float:
        return sum(self.sums) / sum(self.counts)


@dataclass(frozen=True)
class Ran:
    """What came of a run. `reason` is "" where it has scores."""

    reason: str
    seconds: float
    peak: int
    tokens: int = 0
    trained: float = 0.0
    """Seconds of training and tokens are the candidate's claims; they never decide a keep."""
    scores: dict[str, Scores] = field(default_factory=dict)
    bits: float | None = None
    zero: float | None = None
    sealed: bool = False
    level: str = ""
    evaluated: float = 0.0
    """Seconds that scoring it took."""
    said: str = ""
    """The last of what it printed, where it failed."""

    @property
    def whole(self) -> float:
        """Seconds of the run and of scoring it."""
        return self.seconds + self.evaluated

    @property
    def overhead(self) -> float:
        return max(0.0, self.seconds - self.trained)

    def to_json(self) -> dict[str, Any]:
        scores = {
            name: {"sums": [round(s, 6) for s in one.sums], "counts": list(one.counts)}
            for name, one in self.scores.items()
        }
        return {**vars(self), "scores": scores}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Ran:
        scores = {
            name: Scores(tuple(one["sums"]), tuple(one["counts"]))
            for name, one in body["scores"].items()
        }
        return cls(**{**body, "scores": scores})
