"""The solver: brute force agrees on every small instance, and errors name what would fit."""

from __future__ import annotations

from itertools import product
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.core.errors import UserError
from lowbit.planner.knapsack import Option
from lowbit.planner.search import frontier, solve, undominated

OPTION = st.tuples(st.floats(-1, 2), st.integers(1, 60), st.integers(1, 60))
INSTANCE = st.lists(st.lists(OPTION, min_size=1, max_size=5), min_size=1, max_size=5)


def choices(rows: list[list[tuple[float, int, int]]]) -> dict[str, list[Option]]:
    return {
        f"s{i}": [Option(f"s{i}", f"f{j}", j, *row) for j, row in enumerate(options)]
        for i, options in enumerate(rows)
    }


def brute(all_options: dict[str, list[Option]], stored: int, training: float = inf) -> float:
    """The least cost of any plan that fits."""
    plans = product(*all_options.values())
    return min(
        (
            sum(o.cost for o in plan)
            for plan in plans
            if sum(o.stored for o in plan) <= stored and sum(o.training for o in plan) <= training
        ),
        default=inf,
    )


@given(INSTANCE, st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_brute_force_agrees(rows: list[list[tuple[float, int, int]]], share: float) -> None:
    options = choices(rows)
    least = sum(min(o.stored for o in each) for each in options.values())
    most = sum(max(o.stored for o in each) for each in options.values())
    budget = least + round(share * (most - least))
    solution = solve(options, budget)
    assert solution.stored <= budget
    assert [o.site for o in solution.options] == list(options)
    best, near = brute(options, budget), 1e-6 * (solution.cost - cheapest(options)) + 1e-12
    assert best - 1e-12 <= solution.cost <= best + near
    assert solution.bound <= best + 1e-12
    assert solution.gap <= near


@given(st.integers(0, 2**32), st.sampled_from([2e-4, 0.01, 0.5, 8.0, 300.0]), st.floats(0.2, 0.95))
@settings(max_examples=100, deadline=None)
def test_one_dear_option_hides_no_differences_among_the_others(
    seed: int, dear: float, share: float
) -> None:
    """Matrices of a millionth of a nat beside an embedding that costs eight in ternary."""
    draw = Random(seed)
    rows = [
        [
            (weight * 4.0 ** (3 - b) * draw.uniform(0.7, 1.4), 1000 * b + draw.randint(0, 99), 1)
            for b in (3, 4, 5, 6, 8)
        ]
        for weight in [10 ** draw.uniform(-6, -4) for _ in range(5)]
    ]
    options = choices([*rows, [(dear, 1800, 1), (1e-4, 4300, 1), (1e-6, 8300, 1)]])
    least = sum(min(o.stored for o in each) for each in options.values())
    most = sum(max(o.stored for o in each) for each in options.values())
    budget = round(least + share * (most - least))
    solution, best = solve(options, budget), brute(options, budget)
    near = 1e-6 * (solution.cost - cheapest(options)) + 1e-15
    assert solution.cost <= best + near
    assert solution.bound <= best + 1e-15
    assert solution.gap <= near


def cheapest(options: dict[str, list[Option]]) -> float:
    return sum(min(o.cost for o in each) for each in options.values())


def test_the_solver_says_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS prints a line where it mends a plan; this instance makes it."""
    source = Random(5)
    rows = []
    for _ in range(224):
        weight = 10 ** source.uniform(-1, 1)
        rows.append(
            [
                (weight * 4.0**-b / (1 + 0.1 * r), 1000 * b + 60 * r, 400 * r)
                for b in (2, 3, 4, 6, 8)
                for r in (2, 4, 8, 16)
            ]
        )
    solve(choices(rows), 4_300 * 224)
    print("heard")
    assert capfd.readouterr().out == "heard\n"


@given(INSTANCE, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_two_budgets_hold_at_once(
    rows: list[list[tuple[float, int, int]]], first: float, second: float
) -> None:
    options = choices(rows)
    stored, training = (
        round(min(getattr(o, key) for o in each) * (1 - share) + share * 60)
        for each in [[o for row in options.values() for o in row]]
        for key, share in (("stored", first), ("training", second))
    )
    stored, training = stored * len(options), training * len(options)
    best = brute(options, stored, training)
    if best == inf:
        with pytest.raises(UserError):
            solve(options, stored, training)
        return
    solution = solve(options, stored, training)
    assert solution.fits(stored, training)
    assert (
        best - 1e-12 <= solution.cost <= best + 1e-6 * (solution.cost - cheapest(options)) + 1e-12
    )
    assert solution.bound <= best + 1e-12


@given(st.lists(OPTION, min_size=1, max_size=12))
def test_what_is_dropped_is_beaten_and_what_stays_is_not(
    rows: list[tuple[float, int, int]],
) -> None:
    (options,) = choices([rows]).values()
    best = undominated(options)
    for option in options:
        beaten = any(
            k.cost <= option.cost and k.stored <= option.stored and k.training <= option.training
            for k in best
        )
        assert beaten
    for option, other in product(best, best):
        if option is not other:
            assert not (
                option.cost <= other.cost
                and option.stored <= other.stored
                and option.training <= other.training
            )


@given(INSTANCE)
@settings(max_examples=60, deadline=None)
def test_every_corner_of_the_frontier_is_the_best_of_its_bytes(
    rows: list[list[tuple[float, int, int]]],
) -> None:
    options = choices(rows)
    corners = frontier(options)
    for corner in corners:
        assert corner.cost == pytest.approx(brute(options, corner.stored), abs=1e-9)
    sizes = [corner.stored for corner in corners]
    assert sizes == sorted(sizes)
    assert corners[-1].cost == pytest.approx(brute(options, 10**9))
    assert corners[0].stored == sum(min(o.stored for o in each) for each in options.values())


def test_a_large_instance_is_solved() -> None:
    """224 sites of 20 choices: as large as a 7 B model's."""
    rows = [
        [
            ((1 + (i * 37 % 11)) * 4.0**-b * (1 + 0.3 / (1 + r)), 1000 * b + 60 * r, 100 * r)
            for b in (2, 3, 4, 6, 8)
            for r in (2, 4, 8, 16)
        ]
        for i in range(224)
    ]
    solution = solve(choices(rows), 224 * 4000)
    assert solution.stored <= 224 * 4000
    assert solution.gap <= 1e-3 * abs(solution.cost)


def test_a_budget_below_the_smallest_plan_says_what_that_is() -> None:
    options = choices([[(0.1, 10, 5)], [(0.2, 20, 5)]])
    with pytest.raises(UserError, match="a budget of 29 bytes: the smallest plan has 30"):
        solve(options, 29)
    with pytest.raises(UserError, match="9 bytes in training: the smallest plan takes 10"):
        solve(options, 30, 9)
