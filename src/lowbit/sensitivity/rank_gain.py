"""What ranks are worth to the task: one step of each along the gradient, really taken.

The whitened gradient says how a site's gain grows with rank, but not in nats: a step so long that
it wins anything leaves what second order knows far behind. So the steps of the least and of the
largest rank are taken at all sites at once, each as long as is best on text that they do not come
from, and one factor for all sites makes the difference of their predicted gains what it was there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lowbit.sensitivity.measured_model import Lab, moved

KEPT = 0.4
"""Of what a single step of the largest rank wins more than one of the least: in many steps small
ranks catch up. On dialogues 0.067 nats of 0.16 were left after training (studies/bounds, 16 bits).
"""
PACE = 1.6
"""From one length of a step to the next that is tried."""
SHORTEST, SHORT, LONG = -21, -7, 7
"""The least, the first and the greatest length tried, in paces from where no loss would be left."""


@dataclass
class Steps:
    """All sites' steps of the least and of the largest rank, and what each is predicted to win."""

    least: dict[str, Tensor] = field(default_factory=dict)
    largest: dict[str, Tensor] = field(default_factory=dict)
    predicted: tuple[float, float] = (0.0, 0.0)

    def add(self, name: str, steps: tuple[Tensor, Tensor], gains: tuple[float, float]) -> None:
        self.least[name], self.largest[name] = steps
        self.predicted = (self.predicted[0] + gains[0], self.predicted[1] + gains[1])


def factor(lab: Lab, steps: Steps) -> float:
    """Nats that a predicted unit of gain comes to; 0 where more rank was not seen to win more."""
    least, largest = steps.predicted
    if largest <= least or len(lab.batches) < 2:
        return 0.0
    won = [
        _won(lab, step, predicted)
        for step, predicted in ((steps.least, least), (steps.largest, largest))
    ]
    return KEPT * max(0.0, won[1] - won[0]) / (largest - least)


def _won(lab: Lab, step: Mapping[str, Tensor], predicted: float) -> float:
    """How much the loss of the other half falls by a step as long as is best for it."""
    if predicted <= 0:
        return 0.0
    half = lab.batches[1::2]
    base = lab.loss_on(half)
    first = base / (2 * predicted)  # where the first order alone would leave no loss at all
    tried = 0

    def won(place: int) -> float:
        nonlocal tried
        tried += 1
        length = first * PACE**place
        with moved(lab, {name: length * each for name, each in step.items()}):
            return base - lab.loss_on(half)

    top = highest(won)
    lab.worked(0.5 * (1 + tried))
    return top


def highest(won: Callable[[int], float]) -> float:
    """The height of a hill that begins at no length and no win, from its heights at places.

    From the first place longer and longer, to the first height: what lies beyond a valley is
    chance. Where the first place lies beyond the hill already, shorter and shorter.
    """
    seen: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in seen:
            height = won(place)
            seen[place] = height if math.isfinite(height) else -math.inf
        return seen[place]

    place = SHORT
    while place < LONG and at(place) > 0 and at(place + 1) > at(place):
        place += 1
    while place > SHORTEST and (at(place) <= 0 or at(place - 1) > at(place)):
        place -= 1
    return max(0.0, _top(at(place - 1), at(place), at(place + 1)))


def _top(left: float, middle: float, right: float) -> float:
    """The height of a parabola through three points evenly apart, the middle one the highest."""
    bend = left - 2 * middle + right
    if not math.isfinite(bend) or bend >= 0:
        return middle
    return middle - (right - left) ** 2 / (8 * bend)
