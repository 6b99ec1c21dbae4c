"""The frontier in a few numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.planner.frontier_summary import bytes_saved, cost_at, nearby

FRONTIER = ((100, 4.0), (200, 2.0), (400, 1.0), (800, 0.5))
POINTS = st.lists(
    st.tuples(st.integers(1, 1000), st.floats(0, 10, allow_nan=False)), min_size=1, max_size=12
)


@pytest.mark.parametrize(
    ("size", "cost"), [(99, None), (100, 4.0), (199, 4.0), (399, 2.0), (9000, 0.5)]
)
def test_the_cost_at_a_size_is_that_of_the_best_plan_that_fits(
    size: int, cost: float | None
) -> None:
    assert cost_at(FRONTIER, size) == cost


@given(POINTS, st.integers(1, 1000), st.integers(1, 1000))
def test_more_bytes_never_cost_more(
    points: list[tuple[int, float]], first: int, second: int
) -> None:
    less, more = (cost_at(points, size) for size in sorted((first, second)))
    assert less is None or (more is not None and more <= less)


def test_a_little_more_and_less_are_given_where_they_change_anything() -> None:
    changes = nearby(FRONTIER, 400)
    assert [(change.bytes < 0, change.nats) for change in changes] == [(True, 1.0)]
    assert nearby(FRONTIER, 300) == []
    assert [change.nats for change in nearby(FRONTIER, 195)] == [-2.0]


def test_bytes_saved_compare_at_equal_cost_with_uniform_plans_that_none_beats() -> None:
    uniform = ((250, 2.0), (300, 3.0), (500, 1.0))
    saved = bytes_saved(FRONTIER, uniform)
    assert saved is not None
    assert saved.compared == 2, "the one of 300 bytes is worse and larger than that of 250"
    assert (saved.low, saved.high) == (pytest.approx(0.2), pytest.approx(0.2))


def test_without_uniform_plans_nothing_is_compared() -> None:
    assert bytes_saved(FRONTIER, ()) is None
    assert bytes_saved((), ((100, 1.0),)) is None


@given(POINTS)
def test_a_frontier_that_holds_the_uniform_plans_saves_nothing_negative(
    points: list[tuple[int, float]],
) -> None:
    saved = bytes_saved(points, points)
    assert saved is not None
    assert saved.low >= 0
