"""An adapter that starts at the quantisation error takes the most of it that its rank can."""

from __future__ import annotations

import pytest
import torch

from lowbit.layers.adapters import Adapter, SvdAdapter, start_from_residual
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
