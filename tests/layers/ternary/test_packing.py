"""A packed ternary layer computes what the trained layer computes; its bytes are counted."""

from __future__ import annotations

import pytest
import torch
from helpers.ternary import GROUPS, RULES, layer, matrix
from torch.nn import functional as F

from lowbit.core.errors import RunError
from lowbit.core.spec import Group
from lowbit.layers.frozen import FrozenMatrix
from lowbit.layers.ternary.grid import Grid, Rule
from lowbit.layers.ternary.linear import Recovery, TernaryLinear
from lowbit.layers.ternary.packing import effective_bits, pack_layer
from lowbit.quant.codec import decode, scales_of


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("rule", RULES)
def test_what_is_stored_computes_what_was_trained(group: Group, rule: Rule) -> None:
    made = layer(Grid(group, rule), Recovery(reactivation=0.3, bias=True))
    assert made.bias is not None
    with torch.no_grad():
        made.bias.copy_(torch.linspace(-0.1, 0.1, 6))
    x = torch.randn(5, 200)
    kept = pack_layer(made)
    assert kept.bias is not None
    frozen = FrozenMatrix(kept.packed)
    weight = decode(kept.packed)
    assert torch.equal(frozen.weight(torch.float32), weight)
    whole = made.total_bias()
    assert whole is not None
    assert torch.equal(F.linear(x, weight, whole), made(x)), "bit for bit"
    assert torch.equal(kept.bias.float(), whole), "the bias too"
    assert torch.equal(scales_of(kept.packed), made.scales())


def test_what_is_not_yet_ternary_is_not_stored() -> None:
    with pytest.raises(RunError, match=r"at lambda = 1, not at 0\.999"):
        pack_layer(layer(Grid(64), strength=0.999))


@pytest.mark.parametrize(("group", "bits"), [(32, 0.5), (128, 0.125)])
def test_effective_bits_count_scales_biases_and_all_that_was_left_alone(
    group: int, bits: float
) -> None:
    wide = TernaryLinear(matrix(8, 640), None, Grid(group))
    wide.strength = 1.0
    found = effective_bits({"a": pack_layer(wide)}, [])
    assert found == pytest.approx(1.6 + bits, abs=1e-6)
    biased = TernaryLinear(matrix(8, 640), None, Grid(group), Recovery(bias=True))
    biased.strength = 1.0
    assert effective_bits({"a": pack_layer(biased)}, []) - found == pytest.approx(
        16 * 8 / (8 * 640)
    )
    assert effective_bits({"a": pack_layer(wide)}, [640]) - found == pytest.approx(1.0)
    with pytest.raises(RunError, match="no layer is ternary"):
        effective_bits({}, [100])
