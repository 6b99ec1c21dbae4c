"""Calibrated rounding: never worse than nearest on its own objective, and close to the optimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.rounding import FORMATS_TRIED, correlated, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowbit.core.errors import RunError, UserError
from lowbit.core.spec import QuantSpec
from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.calibrated import encode_calibrated, output_error
from lowbit.quant.codec import decode, encode, scales_of
from lowbit.quant.formats import levels_of, parse


@pytest.mark.parametrize("text", FORMATS_TRIED)
def test_no_row_is_worse_than_with_nearest_rounding(text: str) -> None:
    spec, weight, moment = parse(text), weights(12, 70, 0), correlated(70, 1)
    packed = encode_calibrated(weight, spec, moment)
    before = output_error(weight, encode(weight, spec), moment)
    after = output_error(weight, packed, moment)
    assert bool((after <= before * (1 + 1e-5)).all())
    assert packed.nbytes == matrix_bytes(spec, (12, 70)).total
    if spec.format != "int8":
        assert after.sum() < 0.9 * before.sum(), "and the whole is better"


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from(FORMATS_TRIED),
    rows=st.integers(1, 5),
    columns=st.integers(1, 40),
    seed=st.integers(0, 1000),
    rank=st.integers(1, 40),
)
def test_any_shape_and_any_moment(text: str, rows: int, columns: int, seed: int, rank: int) -> None:
    """Also moments of lower rank than there are columns, which have no inverse."""
    spec, weight = parse(text), weights(rows, columns, seed)
    moment = correlated(columns, seed, min(rank, columns))
    packed = encode_calibrated(weight, spec, moment)
    before = output_error(weight, encode(weight, spec), moment)
    assert bool((output_error(weight, packed, moment) <= before * (1 + 1e-4) + 1e-6).all())
    assert bool(torch.isfinite(decode(packed)).all())


def best_codes(weight: Tensor, scale: float, spec: QuantSpec, moment: Tensor) -> float:
    """The least output error of a row over all codes, at a fixed scale."""
    levels = np.array(levels_of(spec)) * scale
    row, metric = weight.double().numpy(), moment.double().numpy()
    errors = (row - np.array(codes) for codes in itertools.product(levels, repeat=len(row)))
    return min(float(error @ metric @ error) for error in errors)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_near_the_optimum_of_all_codes_on_tiny_matrices(seed: int) -> None:
    """With `@tensor` the scale is fixed, so every choice of codes can be tried."""
    spec, weight, moment = parse("int2@tensor"), weights(1, 6, seed), correlated(6, seed)
    packed = encode_calibrated(weight, spec, moment)
    least = best_codes(weight[0], float(scales_of(packed)[0, 0]), spec, moment)
    nearest = float(output_error(weight, encode(weight, spec), moment))
    mine = float(output_error(weight, packed, moment))
    assert least <= mine * (1 + 1e-5)
    assert mine <= nearest
    assert mine - least <= 0.7 * (nearest - least) + 1e-6


def test_with_uncorrelated_inputs_nearest_codes_are_kept() -> None:
    weight, spec = weights(4, 32, 0), parse("int3@tensor")
    packed = encode_calibrated(weight, spec, torch.eye(32))
    assert torch.equal(packed.codes, encode(weight, spec).codes)


def test_it_is_deterministic() -> None:
    weight, moment, spec = weights(8, 64, 0), correlated(64, 0), parse("nf4@32")
    first, second = (encode_calibrated(weight, spec, moment) for _ in range(2))
    assert all(torch.equal(a, second.tensors()[name]) for name, a in first.tensors().items())


def test_an_input_that_is_always_zero_changes_nothing_else() -> None:
    """A dead input leaves the moment singular."""
    weight, moment = weights(6, 32, 0), correlated(32, 0)
    moment[5], moment[:, 5] = 0.0, 0.0
    packed = encode_calibrated(weight, parse("int4@16"), moment)
    assert bool(torch.isfinite(decode(packed)).all())
    all_dead = encode_calibrated(weight, parse("int4@16"), torch.zeros(32, 32))
    assert torch.equal(decode(all_dead), decode(encode(weight, parse("int4@16"))))


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (torch.full((8, 8), torch.nan), "not finite"),
        (-torch.eye(8), "negative diagonal"),
        (torch.eye(8) - 4 * torch.ones(8, 8) + 4 * torch.eye(8), "not that of any inputs"),
    ],
)
def test_a_moment_of_no_inputs_is_refused(moment: Tensor, words: str) -> None:
    with pytest.raises(RunError, match=words):
        encode_calibrated(weights(2, 8, 0), parse("int4@8"), moment)


@pytest.mark.parametrize("text", ["bf16", "fp32"])
def test_a_format_without_levels_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="has no levels"):
        encode_calibrated(weights(2, 8, 0), parse(text), torch.eye(8))
