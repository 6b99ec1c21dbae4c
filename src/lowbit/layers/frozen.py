"""A packed weight matrix as a module.

It replaces `nn.Linear`'s weight by integer codes. Each forward and backward pass decodes the matrix
again, so only the codes stay in memory. The price is the time to decode. `residency = "decoded"`
keeps a decoded copy for machines with enough memory. Decoding is deterministic, so both settings
give the same results.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lowbit.layers.autograd import FrozenProduct
from lowbit.layers.operands import DenseOperand, Int8Operand, Operand
from lowbit.quant import bitsandbytes
from lowbit.quant.codec import TENSORS, Packed, Scratch, decode

Residency = Literal["packed", "decoded"]
Decoder = Literal["own", "bitsandbytes"]
_SCRATCH = Scratch()


class FrozenMatrix(nn.Module):
    """A packed matrix. All its tensors are integers, so casting a model does not change it.

    `decoder`: the library that decodes. lowbit decodes matrices that bitsandbytes cannot read.
    `int8`: products round activations and weights to int8 (`operands.py`).
    """

    def __init__(
        self,
        packed: Packed,
        residency: Residency = "packed",
        decoder: Decoder = "own",
        int8: bool = False,
    ) -> None:
        super().__init__()
        self.int8 = int8
        self._int8_copy: Int8Operand | None = None
        self.decoder = decoder if bitsandbytes.fits(packed) else "own"
        self.spec, self.shape, self.residency = packed.spec, packed.shape, residency
        for name, tensor in packed.tensors().items():
            # A parameter, because sharding considers parameters only; other tensors are small.
            if name == "codes":
                self.codes = nn.Parameter(tensor, requires_grad=False)
            else:
                self.register_buffer(name, tensor)
        self._decoded_copies: dict[torch.dtype, Tensor] = {}

    @property
    def packed(self) -> Packed:
        rest = {name: getattr(self, name, None) for name in TENSORS if name != "codes"}
        return Packed(self.spec, self.shape, self.codes.data, **rest)

    def weight(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The decoded matrix: a new tensor with packed residency, else the stored copy."""
        if self.residency == "packed":
            return self._decoded(dtype)
        copy = self._decoded_copies.get(dtype)
        if copy is None or copy.device != self.codes.device:
            copy = self._decoded_copies[dtype] = self._decoded(dtype)
        return copy

    def scratch_weight(self, dtype: torch.dtype) -> Float[Tensor, "out in"]:
        """The decoded matrix in a shared buffer, which the next decoded matrix overwrites."""
        if self.residency == "packed":
            return self._decoded(dtype, _SCRATCH)
        return self.weight(dtype)

    def operand(self, dtype: torch.dtype) -> Operand:
        """The matrix ready to multiply; the next matrix may overwrite it (`scratch_weight`)."""
        if not self.int8:
            return DenseOperand(self.scratch_weight(dtype))
        if self.residency == "packed":
            return Int8Operand.of(self._decoded(torch.float32, _SCRATCH))
        if self._int8_copy is None or self._int8_copy.codes.device != self.codes.device:
            self._int8_copy = Int8Operand.of(self._decoded(torch.float32), kept=True)
        return self._int8_copy

    def _decoded(self, dtype: torch.dtype, scratch: Scratch | None = None) -> Tensor:
        if self.decoder == "bitsandbytes":
            return bitsandbytes.decode(self.packed, dtype)
        return decode(self.packed, dtype, scratch=scratch)

    def rows(self, index: Tensor, dtype: torch.dtype) -> Float[Tensor, "chosen in"]:
        """Some rows of the decoded matrix."""
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
    """An embedding that decodes only the rows it looks up."""

    def __init__(self, frozen: FrozenMatrix, compute: torch.dtype) -> None:
        super().__init__()
        self.frozen, self.compute = frozen, compute

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.frozen.rows(ids.reshape(-1), self.compute)
        return rows.view(*ids.shape, -1)
