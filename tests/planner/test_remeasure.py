"""Solutions are run, and solved again with corrected costs, on made-up models with known damage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from lowbit.planner.knapsack import Choices, Option, Solution
from lowbit.planner.remeasure import ROUNDS, Formats, formats_of, remeasured
from lowbit.planner.search import solve

BYTES = {"int2@64": 2, "int4@64": 4, "int8@64": 8}
PREDICTED = {"int2@64": 0.012, "int4@64": 0.01, "int8@64": 0.001}
SITES, BUDGET = 8, 32


def options_with(factors: Mapping[str, float]) -> Choices:
    return {
        f"site {i}": [
            Option(
                f"site {i}", text, 0, factors.get(text, 1.0) * PREDICTED[text] * (1 + i / 10), size,
                damage=factors.get(text, 1.0) * PREDICTED[text] * (1 + i / 10),
            )
            for text, size in BYTES.items()
        ]
        for i in range(SITES)
    }  # fmt: skip


def solve_within(choices: Choices) -> Solution:
    return solve(choices, BUDGET)


def truth(wrong: Mapping[str, float]) -> Callable[[Formats], float]:
    """Damage that adds up, but is not what was predicted."""

    def damage(formats: Formats) -> float:
        return sum(
            wrong.get(text, 1.0) * PREDICTED[text] * (1 + int(site[5:]) / 10)
            for site, text in formats.items()
        )

    return damage


def test_a_right_prediction_is_run_once() -> None:
    found = remeasured(list(BYTES), options_with, solve_within, truth({}), truth({}))
    assert len(found.rounds) == 1
    assert found.rounds[0].near
    assert found.factors == dict.fromkeys(BYTES, 1.0)


def test_a_format_that_was_predicted_too_cheap_is_left() -> None:
    """int2 does twenty times what was predicted: the first plan uses it, the last does not."""
    measure = truth({"int2@64": 20.0})
    found = remeasured(list(BYTES), options_with, solve_within, measure, measure)
    first, last = found.rounds[0], found.rounds[-1]
    uses = [list(formats_of(each.solution).values()).count("int2@64") for each in (first, last)]
    assert not first.near
    assert last.near
    assert uses[1] < uses[0]
    assert last.measured < first.measured
    best = solve_within(options_with({"int2@64": 20.0}))
    assert last.measured == pytest.approx(measure(formats_of(best)), rel=0.02)


def test_formats_that_do_more_together_than_alone_are_scaled_together() -> None:
    alone = truth({"int2@64": 2.0})

    def together(formats: Formats) -> float:
        return 1.5 * alone(formats)

    found = remeasured(list(BYTES), options_with, solve_within, together, alone)
    assert found.rounds[-1].near
    assert found.factors["int2@64"] == pytest.approx(3.0, rel=0.05)


def test_it_ends_where_nothing_is_ever_predicted_right() -> None:
    calls: list[Formats] = []

    def strange(formats: Formats) -> float:
        calls.append(formats)
        return float(len(calls)) ** 3

    found = remeasured(list(BYTES), options_with, solve_within, strange, truth({}))
    assert 1 <= len(found.rounds) <= ROUNDS
    assert all(calls.count(each) == 1 for each in calls), "no plan is run twice"
