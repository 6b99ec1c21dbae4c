"""How hard weights are drawn to the grid: lambda from 0 to 1 as training goes on. No torch.

Progress is a number from 0 to 1, of steps or of the time that there is: whoever calls decides.
Every shape ends at exactly 1 where the warm-up ends, and stays there: nearly ternary is not
ternary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lowbit.errors import Bounds, check_bounds

Shape = Literal["linear", "cosine", "exponential", "sigmoid", "two-phase", "none"]
STEEP = 10.0


@dataclass(frozen=True)
class Warmup:
    """`share` of training until lambda is 1; `none` is ternary from the first step.

    `two-phase` reaches `knee` in the first half of the warm-up and the rest in the second.
    With `seconds` of training time, progress is of time or of steps, whichever is further on.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    shape: Shape = "linear"
    share: float = 0.5
    knee: float = 0.8
    seconds: float = 0.0

    def __post_init__(self) -> None:
        bounds = {"share": Bounds(0, 1), "knee": Bounds(0, 1), "seconds": Bounds(0)}
        check_bounds("warmup", self, bounds)

    def progress(self, step: int, total: int, elapsed: float) -> float:
        """How far training is, after `step` of `total` steps and so many seconds of training."""
        return max(step / total, elapsed / self.seconds if self.seconds else 0.0)

    def at(self, progress: float) -> float:
        """Lambda; progress beyond 1 counts as 1."""
        if self.shape == "none" or self.share == 0 or progress >= self.share:
            return 1.0
        x = max(0.0, progress) / self.share
        return min(1.0, max(0.0, _rise(self.shape, x, self.knee)))


def _rise(shape: Shape, x: float, knee: float) -> float:
    """From 0 at 0 to 1 at 1."""
    if shape == "cosine":
        return 0.5 * (1 - math.cos(math.pi * x))
    if shape == "exponential":
        return (1 - math.exp(-5 * x)) / (1 - math.exp(-5))
    if shape == "sigmoid":
        low, high = _logistic(-STEEP / 2), _logistic(STEEP / 2)
        return (_logistic(STEEP * (x - 0.5)) - low) / (high - low)
    if shape == "two-phase":
        return 2 * knee * x if x < 0.5 else knee + (1 - knee) * (2 * x - 1)
    return x


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))
