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


# Ledgers keep the key that their first campaigns wrote.
_JSON_NAMES = {"detail": "said"}


@dataclass(frozen=True)
class RunResult:
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
    detail: str = ""
    """Why a run without scores failed: a message, or the end of what it printed."""

    @property
    def whole(self) -> float:
        """Seconds of the run and of scoring it."""
        return self.seconds + self.evaluated

    @property
    def overhead(self) -> float:
        return max(0.0, self.seconds - self.trained)

    def to_json(self) -> dict[str, Any]:
        scores = {
            name: {"sums": [round(s, 6) for s in part.sums], "counts": list(part.counts)}
            for name, part in self.scores.items()
        }
        fields = {_JSON_NAMES.get(name, name): value for name, value in vars(self).items()}
        return {**fields, "scores": scores}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> RunResult:
        scores = {
            name: Scores(tuple(part["sums"]), tuple(part["counts"]))
            for name, part in body["scores"].items()
        }
        names = {key: name for name, key in _JSON_NAMES.items()}
        fields = {names.get(key, key): value for key, value in body.items()}
        return cls(**{**fields, "scores": scores})
