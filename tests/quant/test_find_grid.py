"""The grid that weights already lie on is found, and none where there is none."""

from __future__ import annotations

import pytest
import torch

from lowbit.quant.codec import decode, encode
from lowbit.quant.find_grid import find_grid
from lowbit.quant.formats import parse


def gaussian(seed: int = 0) -> torch.Tensor:
    return torch.randn(40, 512, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "text", ["int4@32:min", "int4@32:steps", "int3@64:min", "int2@32:min", "nf4@64", "int4@64"]
)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_weights_that_were_stored_in_a_format_are_found_on_it(
    text: str, stored: torch.dtype
) -> None:
    weight = decode(encode(gaussian(), parse(text))).to(stored)
    grid = find_grid(weight)
    assert grid is not None
    again = decode(encode(weight.float(), parse(grid)))
    assert float((again - weight.float()).norm() / weight.float().norm()) < 0.01
    assert parse(grid).group == parse(text).group


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_ordinary_weights_lie_on_no_grid(stored: torch.dtype) -> None:
    assert find_grid(gaussian().to(stored)) is None


def test_a_grid_of_many_bits_is_not_reported() -> None:
    """It would save little, and its values are as many as those of bf16 in a group."""
    assert find_grid(decode(encode(gaussian(), parse("int8@64")))) is None


def test_weights_that_are_all_zero_or_few_end_in_no_error() -> None:
    find_grid(torch.zeros(4, 64))
    assert find_grid(torch.ones(1, 7)) is None
