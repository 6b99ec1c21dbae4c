"""Pack the trained codes and scales of a ternary layer, without quantising again.

Five codes take a byte and each group has a 16-bit scale. All formats use the same packing, so a
packed layer is an ordinary stored matrix. Biases that training added are stored in 16 bits and are
part of the byte count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.core.errors import RunError
from lowbit.layers.ternary.grid import join_blocks
from lowbit.layers.ternary.linear import TernaryLinear
from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.codec import Packed
from lowbit.quant.formats import FORMATS, parse
from lowbit.quant.packing import pack


@dataclass(frozen=True)
class PackedLayer:
    """A packed ternary layer: the matrix and its bias, or None without a bias."""

    packed: Packed
    bias: Tensor | None

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + (0 if self.bias is None else 2 * self.bias.numel())


def pack_layer(layer: TernaryLinear) -> PackedLayer:
    """Pack a layer at lambda = 1; before that its weights are not ternary."""
    if layer.strength != 1.0:
        raise RunError(
            f"a ternary layer can be packed at lambda = 1, not at {layer.strength:g}: its weights "
            "are not ternary yet"
        )
    spec = parse(f"ternary@{layer.grid.group}")
    codes = join_blocks(layer.codes(), layer.shape, layer.grid)
    packed = Packed(
        spec=spec,
        shape=layer.shape,
        codes=pack((codes + 1).to(torch.uint8), FORMATS["ternary"].packing),
        scales=layer.scales().to(torch.float16).view(torch.int16),
    )
    if packed.nbytes != matrix_bytes(spec, layer.shape).total:
        expected = matrix_bytes(spec, layer.shape).total
        raise RunError(
            f"a packed layer takes {packed.nbytes} bytes, but the byte count says {expected}"
        )
    bias = layer.total_bias()
    return PackedLayer(packed, None if bias is None else bias.detach().to(torch.float16))


def effective_bits(layers: Mapping[str, PackedLayer], other: Sequence[int]) -> float:
    """Bits per weight of the ternary matrices, counting all other bytes of the model too.

    `other`: bytes of every layer that is not ternary (embeddings, heads, norms).
    """
    numbers = sum(layer.packed.shape[0] * layer.packed.shape[1] for layer in layers.values())
    if not numbers:
        raise RunError("no layer is ternary")
    return 8 * (sum(layer.nbytes for layer in layers.values()) + sum(other)) / numbers
