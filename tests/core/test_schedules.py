"""Every warm-up shape rises and ends at exactly one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.errors import BadValueError
from lowbit.core.schedules import Shape, Warmup

SHAPES: tuple[Shape, ...] = ("linear", "cosine", "exponential", "sigmoid", "two-phase", "none")


@pytest.mark.parametrize("shape", SHAPES)
@given(share=st.floats(0.05, 1.0), one=st.floats(0, 1), two=st.floats(0, 1))
def test_every_warmup_rises_and_ends_at_exactly_one(
    shape: Shape, share: float, one: float, two: float
) -> None:
    warm = Warmup(shape, share)
    low, high = sorted((one, two))
    assert 0 <= warm.at(low) <= warm.at(high) + 1e-12
    assert warm.at(share) == warm.at(1.0) == warm.at(7.0) == 1.0
    assert warm.at(0.0) == (1.0 if shape == "none" else pytest.approx(0.0, abs=1e-12))


def test_shapes_differ_in_the_middle() -> None:
    found = {shape: Warmup(shape, 1.0).at(0.25) for shape in SHAPES}
    assert len({round(value, 6) for value in found.values()}) == len(SHAPES)
    assert Warmup("two-phase", 1.0, 0.9).at(0.5) == pytest.approx(0.9)
    with pytest.raises(BadValueError):
        Warmup("linear", 1.5)
