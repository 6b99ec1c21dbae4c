"""What is asked of a planner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowbit.planner.options import TRAINED_AFTER, UNTRAINED, Belief


@dataclass(frozen=True)
class Wanted:
    """What is asked for: bytes at rest, peak bytes in training (0: any), what to choose from."""

    stored: int
    training: int
    formats: tuple[str, ...]
    ranks: tuple[int, ...]
    tokens: int
    at: Path | None = None
    controls: int = 0
    """Random plans among the controls that are made too; 0: no controls."""
    seed: int = 0
    untrained: bool = False
    """The plan is for what is stored and not trained: ranks take nothing back and win nothing."""

    @property
    def belief(self) -> Belief:
        return UNTRAINED if self.untrained else TRAINED_AFTER
