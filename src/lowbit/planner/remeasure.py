"""Runs a solution, corrects the costs where it was predicted wrongly, and solves again.

Costs of sites are added up, and at few bits they do not add: errors of one block change what the
next ones do, and a format that is safe in a few places is not in many. So the solution is run on
the calibration text. If its damage is not as predicted, each of its formats is also run alone, at
the sites that have it. The ratios correct each format's damage, and the program is solved again,
near a plan whose costs are now right. This ends when a solution is predicted right, comes again, or
after `ROUNDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lowbit.planner.knapsack import Choices, Solution
from lowbit.planner.options import expected_damage
from lowbit.quant.formats import bits_of, parse

ROUNDS = 4
NEAR = 0.1
"""A prediction within this share of what was measured is right."""
SMALL = 0.02
"""A format with less than this share of the damage is not run alone."""

Formats = Mapping[str, str]
Measure = Callable[[Formats], float]
"""The KL, in nats per token, with these formats at these sites."""


@dataclass(frozen=True)
class Round:
    """A solution, its damage as it was predicted, and as it was measured."""

    solution: Solution
    predicted: float
    measured: float
    remaining: float
    """Nats expected after training, from the measured damage."""

    @property
    def near(self) -> bool:
        return abs(self.predicted - self.measured) <= NEAR * self.measured


@dataclass(frozen=True)
class Remeasured:
    """The factors by which each format's damage was corrected, and the rounds."""

    factors: Mapping[str, float]
    rounds: tuple[Round, ...]


def remeasured(
    formats: Sequence[str],
    options_with: Callable[[Mapping[str, float]], Choices],
    solve: Callable[[Choices], Solution],
    measure: Measure,
    measure_part: Measure,
    on_round: Callable[[int, int], None] = lambda done, total: None,
    most: int = ROUNDS,
) -> Remeasured:
    """Solve, run, correct, and solve again.

    `formats`: all that can be chosen. `options_with(factors)`: every site's options. `measure` runs
    on all of the text, and `measure_part` on some of it, for the formats alone, of which only
    ratios are used. `most`: how many solutions are run.
    """
    factors = dict.fromkeys(formats, 1.0)
    rounds: list[Round] = []
    known: dict[tuple[tuple[str, str], ...], float] = {}
    for number in range(most):
        on_round(number, most)
        solution = solve(options_with(factors))
        chosen = formats_of(solution)
        key, predicted = tuple(sorted(chosen.items())), sum(o.damage for o in solution.options)
        again = key in known
        damage = known[key] if again else measure(chosen)
        known[key] = damage
        rounds.append(Round(solution, predicted, damage, expected_damage(solution, damage)))
        if again or rounds[-1].near:
            break
        factors = _corrected(factors, solution, damage, measure_part)
    on_round(most, most)
    return Remeasured(factors, tuple(rounds))


def formats_of(solution: Solution) -> dict[str, str]:
    """The formats of the sites below 16 bits."""
    return {o.site: o.format for o in solution.options if bits_of(parse(o.format)) < 16}


def _corrected(
    factors: Mapping[str, float], solution: Solution, damage: float, measure_part: Measure
) -> dict[str, float]:
    """The factors that make this solution's damage as measured, format by format."""
    predicted: dict[str, float] = {}
    for option in solution.options:
        predicted[option.format] = predicted.get(option.format, 0.0) + option.damage
    total = sum(predicted.values())
    formats, alone = formats_of(solution), dict[str, float]()
    for text, of_format in predicted.items():
        if of_format > SMALL * total:
            alone[text] = measure_part({s: f for s, f in formats.items() if f == text})
    rest = sum(d for text, d in predicted.items() if text not in alone)
    # Formats together do more, or less, than the sum of each alone.
    joint = damage / (sum(alone.values()) + rest) if total > 0 else 1.0
    # Formats that the solution does not use are taken to be as wrong as it is on the whole.
    overall = damage / total if total > 0 else 1.0
    new = {}
    for text, factor in factors.items():
        own = alone[text] / predicted[text] * joint if text in alone else overall
        new[text] = factor * own
    return new
