"""Packed for good: the codes and scales that were trained, not chosen again.

Five codes a byte and a 16-bit scale a group, through the one packing that all formats have, so that
a packed layer is an ordinary stored matrix. Biases that training added are 16-bit numbers, and they
count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.core.errors import RunError
from lowbit.layers.ternary.grid import unblocked
from lowbit.layers.ternary.linear import TernaryLinear
from lowbit.quant.byte_counts import stored
from lowbit.quant.codec import Packed
from lowbit.quant.formats import FORMATS, parse
from lowbit.quant.packing import pack


@dataclass(frozen=True)
class Stored:
    """One layer for good: the matrix, and what no input reaches (None: nothing)."""

    packed: Packed
    bias: Tensor | None

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + (0 if self.bias is None else 2 * self.bias.numel())


def store(layer: TernaryLinear) -> Stored:
    """The layer as it computes at lambda = 1; refused before that."""
    if layer.strength != 1.0:
        raise RunError(
            f"a ternary layer is stored at lambda = 1, not at {layer.strength:g}: before that it "
            "computes with weights that are not ternary"
        )
    spec = parse(f"ternary@{layer.grid.group}")
    codes = unblocked(layer.codes(), layer.shape, layer.grid)
    packed = Packed(
        spec=spec,
        shape=layer.shape,
        codes=pack((codes + 1).to(torch.uint8), FORMATS["ternary"].packing),
        scales=layer.scales().to(torch.float16).view(torch.int16),
    )
    if packed.nbytes != stored(spec, layer.shape).total:
        raise RunError(f"a packed layer of {packed.nbytes} bytes, where the ledger counts others")
    bias = layer.whole_bias()
    return Stored(packed, None if bias is None else bias.detach().to(torch.float16))


def effective_bits(layers: Mapping[str, Stored], other: Sequence[int]) -> float:
    """Bits a weight of the ternary matrices, with all that a model of them needs beside.

    `other`: bytes of every layer that was left alone (embeddings, heads, norms).
    """
    numbers = sum(one.packed.shape[0] * one.packed.shape[1] for one in layers.values())
    if not numbers:
        raise RunError("no layer is ternary")
    return 8 * (sum(one.nbytes for one in layers.values()) + sum(other)) / numbers
