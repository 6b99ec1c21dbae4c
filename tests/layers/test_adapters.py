"""An adapter that starts at the quantisation error takes the most of it that its rank can."""

from __future__ import annotations

import pytest
import torch
from helpers.layers import COLUMNS, ROWS, given, seed
from helpers.models import stir
from torch import Tensor

from lowbit.layers.adapters import (
    Adapter,
    SvdAdapter,
    best_factors,
    start_from_residual,
    weighted_factors,
)
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import CASTS, FORMATS, parse

RANK = 4


@pytest.mark.parametrize("kind", [Adapter, SvdAdapter])
@pytest.mark.parametrize("name", sorted(FORMATS) + sorted(CASTS))
def test_residual_start_leaves_exactly_the_directions_beyond_its_rank(
    name: str, kind: type[Adapter] | type[SvdAdapter]
) -> None:
    weight = torch.randn(24, 48)
    residual = weight - decode(encode(weight, parse(name)))
    adapter = kind(RANK, (24, 48), 16.0, 0.0, torch.Generator())
    start_from_residual(adapter, residual)
    a, b = adapter.factors()
    left = torch.linalg.svdvals(residual)[RANK:].square().sum().sqrt()
    # Both sides are sums of fp32 products of numbers of the residual's own size.
    torch.testing.assert_close((residual - b @ a).norm(), left, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [Adapter, SvdAdapter])
@pytest.mark.parametrize("rank", [1, 3, ROWS])
def test_an_adapters_delta_is_the_product_of_its_factors(
    kind: type[Adapter] | type[SvdAdapter], rank: int
) -> None:
    adapter = kind(rank, (ROWS, COLUMNS), 5.0, 0.0, seed())
    stir(adapter)
    if isinstance(adapter, SvdAdapter):
        adapter.alive[::2] = False
    a, b = adapter.factors()
    expected_rank = rank // 2 if isinstance(adapter, SvdAdapter) else rank
    assert a.shape == (expected_rank, COLUMNS)
    assert b.shape == (ROWS, expected_rank)
    x = given(torch.float32, 6).detach()
    expected = x.double() @ (b.double() @ a.double()).T
    # Two sums, of 44 and of at most 24 terms.
    away = (adapter(x).double() - expected).abs().max()
    allowed = (COLUMNS + ROWS) * 2.0**-24 * float((x.abs() @ a.abs().T @ b.abs().T).max())
    assert float(away.detach()) <= allowed


@pytest.mark.parametrize("kind", [Adapter, SvdAdapter])
def test_a_new_adapter_adds_nothing_and_can_learn(
    kind: type[Adapter] | type[SvdAdapter],
) -> None:
    adapter = kind(3, (ROWS, COLUMNS), 5.0, 0.0, seed())
    out = adapter(given(torch.float32, 4))
    assert not out.any()
    (out * torch.randn(out.shape)).sum().backward()
    moved = [n for n, p in adapter.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved == (["B"] if kind is Adapter else ["E"])


def test_a_cut_direction_gets_no_gradient_and_adds_nothing() -> None:
    adapter = SvdAdapter(4, (ROWS, COLUMNS), 4.0, 0.0, seed())
    stir(adapter)
    x = given(torch.float32, 4)
    adapter.alive[1] = False
    adapter(x).square().sum().backward()
    for gradient in (adapter.E.grad, adapter.A.grad, adapter.B.grad):
        assert gradient is not None
    assert adapter.E.grad[1] == 0  # type: ignore[index]
    assert not adapter.A.grad[1].any()  # type: ignore[index]
    assert not adapter.B.grad[:, 1].any()  # type: ignore[index]
    assert bool((adapter.E.grad[[0, 2, 3]] != 0).all())  # type: ignore[index]


@pytest.mark.parametrize("kind", [Adapter, SvdAdapter])
def test_dropout_belongs_to_training_alone(kind: type[Adapter] | type[SvdAdapter]) -> None:
    adapter = kind(3, (ROWS, COLUMNS), 5.0, 0.5, seed())
    stir(adapter)
    x = given(torch.float32, 4).detach()
    assert not torch.equal(adapter.train()(x), adapter.train()(x))
    quiet = kind(3, (ROWS, COLUMNS), 5.0, 0.0, seed())
    quiet.load_state_dict(adapter.state_dict())
    assert torch.equal(adapter.eval()(x), quiet.train()(x))


# --- starts ---------------------------------------------------------------------------------------


def _output_error(residual: Tensor, delta: Tensor, moment: Tensor) -> float:
    rest = residual - delta
    return float(((rest @ moment) * rest).sum())


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_weighted_start_is_the_best_of_its_rank_for_the_inputs(rank: int) -> None:
    """Better than the unweighted one and than random changes of itself."""
    generator = torch.Generator().manual_seed(rank)
    inputs = torch.randn(200, 12, generator=generator) * torch.logspace(0, 1, 12)
    moment, residual = inputs.t() @ inputs / 200, torch.randn(10, 12, generator=generator)
    left, right = weighted_factors(residual, moment, rank)
    best = _output_error(residual, left @ right, moment)
    plain_right, size, plain_left = best_factors(residual, rank)
    assert best < _output_error(residual, plain_left * size @ plain_right, moment)
    for _ in range(20):
        moved = left + 0.01 * torch.randn(left.shape, generator=generator)
        assert best <= _output_error(residual, moved @ right, moment) * (1 + 1e-6)


def test_inputs_that_are_always_zero_do_not_make_a_start_infinite() -> None:
    moment = torch.zeros(6, 6)
    moment[0, 0] = 1.0
    left, right = weighted_factors(torch.ones(4, 6), moment, 2)
    assert bool(torch.isfinite(left @ right).all())
