"""Schedules: what changes while a plan is trained. No torch.

`RankSchedule` moves ranks between matrices (`[plan.X.schedule]`). `Recipe` sets up ternary training
(`[plan.X.ternary]`). Its `Warmup` blends full-precision and ternary weights by a factor lambda that
rises from 0 to 1. Training progress is a fraction of the steps or of a time limit. Every warm-up
shape ends at exactly 1 and stays there, because a blend close to ternary cannot be stored as
ternary. `Distil` adds losses against the unquantised model.
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

    `fixed`: ranks do not change. `adalora`: singular directions are scored by their smoothed
    sensitivity. The weakest are cut until `target` directions per site remain on average. The cuts
    follow a cubic curve between the fractions `start` and `stop` of training. `linear`: the same
    along a straight line.
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
    """How the blending factor lambda rises to 1 over the first `share` of training.

    `none`: weights are ternary from the first step. `two-phase`: lambda reaches `knee` halfway
    through the warm-up and 1 at its end. If `seconds` is set, progress is the larger of the
    fraction of steps and the fraction of that time.
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
        """The fraction of training done after `step` of `total` steps and `elapsed` seconds."""
        return max(step / total, elapsed / self.seconds if self.seconds else 0.0)

    def at(self, progress: float) -> float:
        """Lambda at a fraction of training; a fraction beyond 1 counts as 1."""
        if self.shape == "none" or self.share == 0 or progress >= self.share:
            return 1.0
        x = max(0.0, progress) / self.share
        return min(1.0, max(0.0, _rise(self.shape, x, self.knee)))


def _rise(shape: Shape, x: float, knee: float) -> float:
    """A curve from 0 at x = 0 to 1 at x = 1."""
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
    """Weights of three losses against the unquantised model, the teacher; 0 switches a loss off.

    `logits`: KL divergence over the teacher's `top` likeliest tokens and the rest. `off`: 1 minus
    the cosine between features. `features`: their squared distance. Features are the hidden states
    after the blocks `layers`, counted from 1. The teacher's outputs for the training text are held
    in memory and may take at most `cache` bytes.
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
        """Bytes of the teacher's outputs for `tokens` tokens: 16-bit numbers, 32-bit indices."""
        return tokens * (6 * self.top + 2 + 2 * width * len(self.layers))


@dataclass(frozen=True)
class Recipe:
    """Settings of ternary training that are not part of a format.

    `threshold`: weights below this share of their scale become zero. `learned`: scales are trained,
    starting from the format's rule. `dead_gradient` multiplies the gradient of zero weights.
    `reactivation` adds the sum of the zero weights times a trained factor to the bias; it is the
    factor's initial value (0: off). `bias` trains an additional bias. Both are stored as one 16-bit
    vector per matrix. `activations` rounds activations to 8 bits with one scale per token.
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
        """Whether training adds a bias to every matrix."""
        return self.bias or self.reactivation > 0
