"""A stored matrix as a module: codes in, product out.

The frozen product saves only its codes for the backward pass, which decodes again, because the
decoded matrix is what packing was meant to save. `residency = "decoded"` keeps the decoded copy
for those who have the memory; decoding is deterministic, so the result has the same bits.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lowbit.layers.autograd import FrozenProduct
from lowbit.quant import bitsandbytes
from lowbit.quant.codec import TENSORS, Packed, Room, decode

Residency = Literal["packed", "decoded"]
Decoder = Literal["own", "bitsandbytes"]
_ROOM = Room()


class Frozen(nn.Module):
    """A stored matrix: integer tensors only, so casting a model changes nothing in it.

    `decoder`: who decodes, where another than ours can read this matrix.
    """

    def __init__(
        self, packed: Packed, residency: Residency = "packed", decoder: Decoder = "own"
    ) -> None:
        super().__init__()
        self.decoder = decoder if bitsandbytes.fits(packed) else "own"
        self.spec, self.shape, self.residency = packed.spec, packed.shape, residency
        for name, tensor in packed.tensors().items():
            # Codes are parameters, so that sharding finds them; the rest are small.
            if name == "codes":
                self.codes = nn.Parameter(tensor, requires_grad=False)
            else:
                self.register_buffer(name, tensor)
        self._kept: dict[torch.dtype, Tensor] = {}

    @property
    def packed(self) -> Packed:
        rest = {name: getattr(self, name, None) for name in TENSORS if name != "codes"}
        return Packed(self.spec, self.shape, self.codes.data, **rest)

    def weight(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The decoded matrix, fresh each time unless residency says to keep it."""
        if self.residency == "packed":
            return self._decoded(dtype)
        kept = self._kept.get(dtype)
        if kept is None or kept.device != self.codes.device:
            kept = self._kept[dtype] = self._decoded(dtype)
        return kept

    def passing(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The decoded matrix for a product at once: the next one that is decoded overwrites it."""
        if self.residency == "packed":
            return self._decoded(dtype, _ROOM)
        return self.weight(dtype)

    def _decoded(self, dtype: torch.dtype, room: Room | None = None) -> Tensor:
        if self.decoder == "bitsandbytes":
            return bitsandbytes.decode(self.packed, dtype)
        return decode(self.packed, dtype, room=room)

    def rows(self, index: Tensor, dtype: torch.dtype) -> Float[Tensor, "chosen in"]:
        """Some rows only."""
        if self.residency == "decoded":
            return self.weight(dtype)[index]
        return decode(self.packed, dtype, rows=index)

    def forward(
        self, x: Float[Tensor, "... in"], bias: Float[Tensor, " out"] | None = None
    ) -> Float[Tensor, "... out"]:
        return FrozenProduct.apply(x, self, None if bias is None else bias.to(x.dtype))

    def extra_repr(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]}, {self.spec.format}, {self.residency}"


class FrozenEmbedding(nn.Module):
    """Looks up rows of a stored matrix and decodes only those."""

    def __init__(self, frozen: Frozen, compute: torch.dtype) -> None:
        super().__init__()
        self.frozen, self.compute = frozen, compute

    def forward(self, ids: Tensor) -> Tensor:
        found = self.frozen.rows(ids.reshape(-1), self.compute)
        return found.view(*ids.shape, -1)
