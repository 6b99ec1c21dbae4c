"""What the user asks the planner for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lowbit.core.spec import Rounding
from lowbit.planner.options import TRAINED_AFTER, UNTRAINED, CostModel


@dataclass(frozen=True)
class PlanRequest:
    """A budget, and the formats and ranks to choose from.

    `stored`: bytes at rest. `training`: peak bytes in training; 0 means no limit. `tokens`: tokens
    of calibration text. `at`: the folder of a finished 16-bit run, whose adapter is merged first.
    """

    stored: int
    training: int
    formats: tuple[str, ...]
    ranks: tuple[int, ...]
    tokens: int
    at: Path | None = None
    controls: int = 0
    """How many random control plans to make, besides the other controls; 0: no controls at all."""
    seed: int = 0
    untrained: bool = False
    """The plan is for a model that is stored and not trained: ranks recover and gain nothing."""
    rounding: Rounding = "nearest"
    """With `calibrated`, the solution with nearest rounding is a candidate too."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """What each format's damage is multiplied by, after solutions were run."""

    @property
    def costs(self) -> CostModel:
        costs = UNTRAINED if self.untrained else TRAINED_AFTER
        return replace(costs, factors=self.factors, calibrated=self.rounding != "nearest")
