"""Groups of weights become three values times a scale."""

from __future__ import annotations

import pytest
import torch
from helpers.ternary import GROUPS, RULES, matrix
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowbit.core.spec import Group
from lowbit.layers.ternary.grid import (
    Grid,
    Rule,
    blocks,
    join_blocks,
    least_squares_scale,
    ternarise,
)
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("rule", RULES)
def test_weights_are_three_values_times_their_groups_scale(group: Group, rule: Rule) -> None:
    grid, weight = Grid(group, rule), matrix()
    codes, scale = ternarise(weight, grid)
    assert set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert torch.equal(scale, scale.to(torch.float16).float()), "scales are as 16 bits keep them"
    assert join_blocks(codes, (6, 200), grid).shape == weight.shape
    assert torch.equal(join_blocks(blocks(weight, grid), (6, 200), grid), weight)


def test_the_formula_is_the_published_one() -> None:
    weight = matrix(4, 128)
    codes, scale = ternarise(weight, Grid(128, "absmean", 0.5))
    mean = weight.abs().mean(1, keepdim=True)
    expected = (weight / mean).clamp(-1, 1).round()
    near = ((weight / mean).abs() - 0.5).abs() < 1e-4
    assert torch.equal(codes.view(4, 128)[~near], expected[~near])
    assert torch.allclose(scale.view(4, 1), mean, rtol=1e-3)


@pytest.mark.parametrize("group", GROUPS)
def test_absmean_and_lsq_are_the_codecs_own(group: Group) -> None:
    """The training layer and `quant` choose the same codes for the same matrix."""
    weight = matrix()
    packed = encode(weight, parse(f"ternary@{group}"))
    codes, scale = ternarise(weight, Grid(group))
    ours = join_blocks(codes * scale, (6, 200), Grid(group))
    assert torch.allclose(decode(packed), ours, atol=1e-6)


@given(st.integers(0, 1000), st.floats(0.1, 1.5))
@settings(max_examples=30, deadline=None)
def test_the_least_squares_scale_has_no_better(seed: int, threshold: float) -> None:
    weight = matrix(3, 64, seed)
    grid = Grid(64, "lsq", threshold)
    codes, _ = ternarise(weight, grid)
    best = least_squares_scale(blocks(weight, grid), codes)

    def error(scale: Tensor) -> Tensor:
        return (blocks(weight, grid) - codes * scale).square().sum()

    assert error(best) <= error(best * 1.02) + 1e-9
    assert error(best) <= error(best * 0.98) + 1e-9


def test_a_short_last_group_is_no_heavier_for_its_padding() -> None:
    weight = matrix(2, 130)
    _, scale = ternarise(weight, Grid(128))
    assert scale.shape == (2, 2, 1)
    assert torch.allclose(scale[:, 1, 0], weight[:, 128:].abs().mean(1), rtol=1e-3)
