"""Schedules: what changes while a plan is trained. No torch.

`RankSchedule` moves ranks between matrices (`[plan.X.schedule]`). `Recipe` is ternary training
(`[plan.X.ternary]`): `Warmup` says how hard weights are pulled to the grid, a factor lambda that
rises from 0 to 1. Its progress is a number from 0 to 1, of steps or of the time available; the
caller decides. Every shape ends at exactly 1 where the warm-up ends and stays there, because
nearly ternary is not ternary. `Distil` adds losses against the unquantised model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from lowbit.core.errors import BadValueError, Bounds, check_bounds

STRICT: dict[str, str] = {"extra": "forbid"}
_FROM_0, _FROM_1 = Bounds(0), Bounds(1)
_FRACTION, _BELOW_ONE = Bounds(0, 1), Bounds(0, 1, below=True)


@dataclass(frozen=True)
class RankSchedule:
    """How ranks move during training.

    `fixed`: not at all. `adalora`: singular directions are scored by smoothed sensitivity and the
    weakest are cut until `target` directions a site remain on average, along a cubic curve between
    the fractions `start` and `stop` of training. `linear`: the same along a straight line.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    kind: Literal["fixed", "linear", "adalora"] = "fixed"
    target: int = 4
    start: float = 0.1
    stop: float = 0.7
    every: int = 10
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.5

    def __post_init__(self) -> None:
        bounds = {"target": _FROM_1, "start": _FRACTION, "stop": _FRACTION, "every": _FROM_1}
        bounds |= {"beta1": _BELOW_ONE, "beta2": _BELOW_ONE, "orthogonality": _FROM_0}
        check_bounds("schedule", self, bounds)
        if self.start >= self.stop:
            raise BadValueError(
                "schedule", "stop", self.stop, f"above start, which is {self.start:g}"
            )


Shape = Literal["linear", "cosine", "exponential", "sigmoid", "two-phase", "none"]
STEEP = 10.0


@dataclass(frozen=True)
class Warmup:
    """`share` of training until lambda is 1; `none` is ternary from the first step.

    `two-phase` reaches `knee` in the first half of the warm-up and the rest in the second.
    With `seconds` of training time, progress is of time or of steps, whichever is further on.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
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


@dataclass(frozen=True)
class Distil:
    """Weights of three losses against the unquantised model; 0 switches one off.

    `logits`: divergence over its `top` likeliest tokens and the rest. `off`: one less the cosine
    of features, `features`: their squared distance, both after the blocks `layers` (counted from
    1). What the teacher says of the training text is kept, and may take `cache` bytes.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    logits: float = 0.0
    off: float = 0.0
    features: float = 0.0
    top: int = 32
    layers: tuple[int, ...] = ()
    cache: int = 2**30

    def __post_init__(self) -> None:
        bounds = dict.fromkeys(("logits", "off", "features"), _FROM_0)
        check_bounds("distil", self, bounds | {"top": Bounds(1), "cache": Bounds(1)})
        if (self.off or self.features) and not self.layers:
            raise BadValueError("distil", "layers", (), "blocks, like [2, 4], to compare after")

    @property
    def enabled(self) -> bool:
        """Whether any distillation loss has a weight."""
        return bool(self.logits or self.off or self.features)

    def nbytes(self, tokens: int, width: int) -> int:
        """Of what the teacher says of so many tokens: 16-bit numbers, 32-bit indices."""
        return tokens * (6 * self.top + 2 + 2 * width * len(self.layers))


@dataclass(frozen=True)
class Recipe:
    """The dials of ternary training that no format has.

    `threshold`: what share of its scale a weight must exceed to be kept. `learned`: scales are
    trained, from where the format's rule puts them. `dead_gradient` multiplies the gradient of
    zeros; `reactivation` (0: none) adds them up as a bias, `bias` trains one: both are folded into
    one vector of 16 bits a row. `activations`: in 8 bits, a scale a token.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    warmup: Warmup = field(default_factory=Warmup)
    threshold: float = 0.5
    learned: bool = False
    dead_gradient: float = 1.0
    reactivation: float = 0.0
    bias: bool = False
    activations: bool = False
    distil: Distil = field(default_factory=Distil)

    def __post_init__(self) -> None:
        bounds = dict.fromkeys(("dead_gradient", "reactivation"), _FROM_0)
        check_bounds("ternary", self, bounds | {"threshold": Bounds(0, 1, below=True)})

    @property
    def folds(self) -> bool:
        """Whether every matrix gets a bias that training made."""
        return self.bias or self.reactivation > 0
