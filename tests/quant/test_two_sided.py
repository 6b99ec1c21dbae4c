"""Two-sided rounding: never worse than the other roundings on its own objective; oracles."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.rounding import FORMATS_TRIED, correlated, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowbit.core.errors import RunError, UserError
from lowbit.quant import two_sided
from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.calibrated import encode_calibrated, rows_are_apart
from lowbit.quant.codec import Packed, decode, encode, scales_of
from lowbit.quant.formats import levels_of, parse
from lowbit.quant.two_sided import encode_two_sided, loss_error


def factors_of(*sizes: int, seed: int = 5) -> list[Tensor]:
    return [correlated(size, seed + i, rank=max(1, size // 3)) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("text", FORMATS_TRIED)
def test_it_is_never_worse_than_the_other_roundings(text: str) -> None:
    spec, weight, moment, factors = parse(text), weights(24, 70, 0), correlated(70, 1), factors_of(
        16, 8
    )  # fmt: skip
    packed = encode_two_sided(weight, spec, moment, factors)
    calibrated, nearest = encode_calibrated(weight, spec, moment), encode(weight, spec)
    error, *others = (
        loss_error(weight, each, moment, factors) for each in (packed, calibrated, nearest)
    )
    assert all(error <= other * (1 + 1e-5) for other in others)
    assert packed.nbytes == matrix_bytes(spec, (24, 70)).total


@settings(max_examples=40, deadline=None)
@given(
    text=st.sampled_from(FORMATS_TRIED),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    columns=st.integers(1, 24),
    seed=st.integers(0, 1000),
)
def test_any_shape(text: str, sizes: list[int], columns: int, seed: int) -> None:
    spec, weight = parse(text), weights(sum(sizes), columns, seed)
    moment, factors = correlated(columns, seed + 1), factors_of(*sizes, seed=seed + 2)
    packed = encode_two_sided(weight, spec, moment, factors)
    assert packed.shape == weight.shape
    error = loss_error(weight, packed, moment, factors)
    assert error <= loss_error(weight, encode(weight, spec), moment, factors) * (1 + 1e-5) + 1e-9


def test_rows_that_follow_others_make_up_for_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where gradients come in pairs, the second row of a pair can undo the error of the first."""
    monkeypatch.setattr(two_sided, "ROWS", 1)
    monkeypatch.setattr(two_sided, "DAMPING", 0.01)
    spec, weight, moment = parse("int3@16"), weights(16, 32, 0), torch.eye(32)
    pairs = torch.eye(16) + torch.eye(16).roll(8, 0)
    packed = encode_two_sided(weight, spec, moment, [pairs])
    alone = encode_calibrated(weight, spec, moment)
    assert loss_error(weight, packed, moment, [pairs]) < 0.8 * loss_error(
        weight, alone, moment, [pairs]
    )


def test_it_comes_close_to_the_best_of_all_roundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force over all codes of tiny matrices, with the scales that it chose."""
    monkeypatch.setattr(two_sided, "ROWS", 1)
    spec, levels = parse("int2@4"), torch.tensor(levels_of(parse("int2@4")))
    ratios = []
    for seed in range(12):
        weight, moment = weights(2, 3, seed), correlated(3, seed + 50)
        factors = factors_of(2, seed=seed)
        packed = encode_two_sided(weight, spec, moment, factors)
        best = best_error(weight, packed, levels, moment, factors)
        ratios.append(loss_error(weight, packed, moment, factors) / best)
    assert sorted(ratios)[6] < 1.3


def best_error(
    weight: Tensor, packed: Packed, levels: Tensor, moment: Tensor, factors: list[Tensor]
) -> float:
    scale = scales_of(packed)
    damped = two_sided._damped(factors[0])
    choices = torch.tensor(list(itertools.product(range(len(levels)), repeat=weight.numel())))
    errors = weight - levels[choices].view(-1, *weight.shape) * scale[:, :1]
    costs = ((damped @ errors) * (errors @ moment)).sum((1, 2))
    return float(costs.min())


def test_with_independent_rows_it_is_calibrated_rounding() -> None:
    spec, weight, moment = parse("int4@16"), weights(8, 32, 0), correlated(32, 1)
    packed = encode_two_sided(weight, spec, moment, [torch.eye(8)])
    assert torch.equal(decode(packed), decode(encode_calibrated(weight, spec, moment)))


def test_rows_without_gradients_are_rounded_as_calibrated() -> None:
    spec, weight, moment = parse("int4@16"), weights(8, 32, 0), correlated(32, 1)
    packed = encode_two_sided(weight, spec, moment, [torch.zeros(8, 8)])
    assert torch.equal(decode(packed), decode(encode_calibrated(weight, spec, moment)))


def test_scales_that_rows_share_keep_rows_together() -> None:
    assert not rows_are_apart(parse("nf4@16+dq"))
    assert not rows_are_apart(parse("int2@tensor"))
    assert rows_are_apart(parse("int3@16:zp"))


def test_bad_input_is_one_clear_line() -> None:
    weight, moment = weights(4, 16, 0), correlated(16, 1)
    with pytest.raises(UserError, match="bf16 has no levels"):
        encode_two_sided(weight, parse("bf16"), moment, [torch.eye(4)])
    with pytest.raises(RunError, match="gradients on calibration text are not finite"):
        encode_two_sided(weight, parse("int4@16"), moment, [torch.full((4, 4), torch.nan)])
    with pytest.raises(RunError, match="inputs on calibration text are not finite"):
        encode_two_sided(weight, parse("int4@16"), moment * torch.nan, [torch.eye(4)])
    with pytest.raises(RunError, match="3 rows of gradients for 4 rows"):
        encode_two_sided(weight, parse("int4@16"), moment, [torch.eye(3)])
