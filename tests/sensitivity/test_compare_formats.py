"""Formats compared without a model."""

from __future__ import annotations

import pytest
import torch

from lowbit.core.errors import UserError
from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse
from lowbit.sensitivity.compare_formats import COMPARED, compare_formats


@pytest.mark.parametrize("text", COMPARED)
def test_bits_and_error_are_those_of_an_encoded_matrix(text: str) -> None:
    (facts,) = compare_formats([text], 512)
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    assert facts.bits == 8 * matrix_bytes(parse(text), (512, 512)).total / 512**2
    error = (decode(encode(weight, parse(text))) - weight).square().mean().item()
    # Fitted scales and quantised scales are not part of the integral.
    assert facts.error == pytest.approx(error, rel=0.12)


def test_no_format_is_below_the_rate_distortion_limit() -> None:
    assert all(facts.over_optimum > 1 for facts in compare_formats())


def test_rows_are_sorted_by_bits() -> None:
    bits = [facts.bits for facts in compare_formats(["int2@64", "int8@row", "nf4@64"])]
    assert bits == sorted(bits, reverse=True)


def test_a_format_without_levels_is_refused() -> None:
    with pytest.raises(UserError, match="bf16 has no levels"):
        compare_formats(["bf16"])
