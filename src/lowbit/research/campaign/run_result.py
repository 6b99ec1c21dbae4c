"""Result of one run of a candidate: scores by article or a reason for failure, time and memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunScores:
    """Summed loss and number of tokens of each article of one part of the evaluation text."""

    sums: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def loss(self) -> float:
        """Mean loss in nats a token."""
        return sum(self.sums) / sum(self.counts)


# Field -> key in the ledger, where they differ: committed ledgers have the older name.
_JSON_NAMES = {"detail": "said"}


@dataclass(frozen=True)
class RunResult:
    """Result of one run. `reason` is "" if it has scores, else a word such as "timeout"."""

    reason: str
    seconds: float
    peak: int
    """Most memory at any time, in bytes."""
    tokens: int = 0
    trained: float = 0.0
    """Seconds of training. The candidate reports these and `tokens`; neither decides a keep."""
    scores: dict[str, RunScores] = field(default_factory=dict)
    bits: float | None = None
    """Bits a ternary weight, with everything in the exported file counted."""
    zero: float | None = None
    """Share of the ternary weights that are zero."""
    sealed: bool = False
    """Whether files and network were out of the candidate's reach."""
    level: str = ""
    """How files, network and processes were isolated."""
    evaluated: float = 0.0
    """Seconds that the evaluation took."""
    detail: str = ""
    """Why the run failed: a message, or the end of its output."""

    @property
    def total_seconds(self) -> float:
        """Seconds of the run and of its evaluation."""
        return self.seconds + self.evaluated

    @property
    def overhead(self) -> float:
        """Seconds of the run outside training: start-up, check and export."""
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
            name: RunScores(tuple(part["sums"]), tuple(part["counts"]))
            for name, part in body["scores"].items()
        }
        names = {key: name for name, key in _JSON_NAMES.items()}
        fields = {names.get(key, key): value for key, value in body.items()}
        return cls(**{**fields, "scores": scores})
