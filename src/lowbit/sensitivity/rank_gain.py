"""The gain of a rank on the task, in nats: measured with one actual step of each rank.

The whitened gradient says how a site's gain grows with rank, but not in nats, because a step that
gains anything is too long for second order. So the steps of the smallest and of the largest rank
are actually taken, at all sites at once, on text that they do not come from, each at its best
length. One scale for all sites then makes the difference of the predicted gains equal to the
measured difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lowbit.curvature.measured_model import MeasuredModel, shifted
from lowbit.curvature.weight_changes import Lazy
from lowbit.sensitivity.rank_correction import LowRank

MANY_STEPS = 0.4
"""The share of a single step's gain that remains over many steps.

With many steps, small ranks catch up with large ones. On dialogues, 0.067 of 0.16 nats remained
after training (studies/bounds, 16 bits).
"""
LENGTH_RATIO = 1.6
"""The ratio between a step length that is tried and the next."""
SHORTEST, FIRST, LONGEST = -21, -7, 7
"""Exponents of `LENGTH_RATIO`: the shortest, first and longest length tried, relative to the length
at which the first order would leave no loss."""


@dataclass
class RankSteps:
    """Every site's step of the smallest and of the largest rank, and their predicted gains."""

    smallest: dict[str, LowRank] = field(default_factory=dict)
    largest: dict[str, LowRank] = field(default_factory=dict)
    predicted: tuple[float, float] = (0.0, 0.0)

    def add(self, name: str, steps: tuple[LowRank, LowRank], gains: tuple[float, float]) -> None:
        self.smallest[name], self.largest[name] = steps
        self.predicted = (self.predicted[0] + gains[0], self.predicted[1] + gains[1])


def gain_scale(model: MeasuredModel, steps: RankSteps) -> float:
    """Nats per predicted unit of gain; 0 where the larger rank gained nothing more."""
    small, large = steps.predicted
    if large <= small or len(model.batches) < 2:
        return 0.0
    gains = [
        _best_gain(model, step, predicted)
        for step, predicted in ((steps.smallest, small), (steps.largest, large))
    ]
    return MANY_STEPS * max(0.0, gains[1] - gains[0]) / (large - small)


def _best_gain(model: MeasuredModel, step: Mapping[str, LowRank], predicted: float) -> float:
    """How much a step of the best length lowers the loss on the other half of the text."""
    if predicted <= 0:
        return 0.0
    half = model.batches[1::2]
    base = model.loss_on(half)
    unit = base / (2 * predicted)  # where the first order alone would leave no loss
    evaluations = 0

    def gain(exponent: int) -> float:
        nonlocal evaluations
        evaluations += 1
        length = unit * LENGTH_RATIO**exponent
        with shifted(model, Lazy(step, lambda name: length * step[name].matrix())):
            return base - model.loss_on(half)

    top = peak_gain(gain)
    model.count_work(0.5 * (1 + evaluations))
    return top


def peak_gain(gain: Callable[[int], float]) -> float:
    """The peak of a gain that is 0 at step length 0, from its values at exponents of the length.

    Climbs from `FIRST` to longer steps up to the first peak, and ignores what comes after a valley.
    If `FIRST` is already past the peak, tries shorter steps.
    """
    values: dict[int, float] = {}

    def at(exponent: int) -> float:
        if exponent not in values:
            value = gain(exponent)
            values[exponent] = value if math.isfinite(value) else -math.inf
        return values[exponent]

    exponent = FIRST
    while exponent < LONGEST and at(exponent) > 0 and at(exponent + 1) > at(exponent):
        exponent += 1
    while exponent > SHORTEST and (at(exponent) <= 0 or at(exponent - 1) > at(exponent)):
        exponent -= 1
    return max(0.0, _parabola_peak(at(exponent - 1), at(exponent), at(exponent + 1)))


def _parabola_peak(left: float, middle: float, right: float) -> float:
    """The peak of a parabola through three equidistant points, the middle one the highest."""
    bend = left - 2 * middle + right
    if not math.isfinite(bend) or bend >= 0:
        return middle
    return middle - (right - left) ** 2 / (8 * bend)
