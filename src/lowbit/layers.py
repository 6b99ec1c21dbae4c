"""Frozen (codes -> product) and Adapter (x, A, B -> delta), composed by one thin layer.

    y = x W'  +  bias  +  (alpha / r) (x A') B'          W = decode(codes), never kept

The frozen product saves nothing but its codes: its backward pass decodes again, because the
decoded matrix is what packing was meant to save. `residency = decoded` keeps the copy for those
who have the memory; decoding is deterministic, so the bits of the result are the same.

Nothing here depends on train or eval mode except dropout: an evaluation pass cannot change what a
later training step computes, and no weight is ever merged behind anyone's back.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.blas import product
from lowbit.models.dropout import dropout
from lowbit.products import AdaptedProduct, FrozenProduct
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


class Thin(NamedTuple):
    """The factors of a delta: scale (x A') B'."""

    A: Float[Tensor, "rank in"]
    B: Float[Tensor, "out rank"]
    scale: float


class Adapter(nn.Module):
    """The low-rank delta (alpha / r) (x A') B'. B starts at zero, so the delta does."""

    def __init__(
        self, rank: int, shape: tuple[int, int], alpha: float, dropout: float, seed: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = shape
        bound = 1 / math.sqrt(columns)
        self.scaling, self.dropout = alpha / rank, dropout
        self.A = nn.Parameter(torch.empty(rank, columns).uniform_(-bound, bound, generator=seed))
        self.B = nn.Parameter(torch.zeros(rows, rank))

    def thin(self, dtype: torch.dtype) -> Thin:
        """What multiplies x: A, B and their scale, in the compute type."""
        return Thin(self.A.to(dtype), self.B.to(dtype), self.scaling)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return delta(x, self)

    def factors(self) -> tuple[Tensor, Tensor]:
        """(A, B) with everything folded in: delta W = B A."""
        return self.A.detach(), (self.scaling * self.B).detach()


class SvdAdapter(nn.Module):
    """The adaptive delta (alpha / r) ((x A') * E) B': a singular value a direction.

    A direction whose value is cut is held at zero by `alive` and is left out by `factors`.
    """

    alive: Tensor

    def __init__(
        self, rank: int, shape: tuple[int, int], alpha: float, dropout: float, seed: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = shape
        self.scaling, self.dropout = alpha / rank, dropout
        self.A = nn.Parameter(torch.empty(rank, columns).normal_(0, 0.02, generator=seed))
        self.B = nn.Parameter(torch.empty(rows, rank).normal_(0, 0.02, generator=seed))
        self.E = nn.Parameter(torch.zeros(rank))
        self.register_buffer("alive", torch.ones(rank, dtype=torch.bool))

    def thin(self, dtype: torch.dtype) -> Thin:
        """What multiplies x: A with the singular values that are alive, B, and no other scale."""
        scaled = self.A * (self.scaling * self.E * self.alive)[:, None]
        return Thin(scaled.to(dtype), self.B.to(dtype), 1.0)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return delta(x, self)

    def factors(self) -> tuple[Tensor, Tensor]:
        """(A, B) of the directions that are alive, everything folded in."""
        scaled = self.A * (self.scaling * self.E)[:, None]
        return scaled[self.alive].detach(), self.B[:, self.alive].detach()


def delta(x: Float[Tensor, "... in"], adapter: Adapter | SvdAdapter) -> Float[Tensor, "... out"]:
    """What an adapter adds, on its own: the formula that the joined product is held against."""
    thin = adapter.thin(x.dtype)
    x = F.dropout(x, adapter.dropout, adapter.training)
    return thin.scale * F.linear(F.linear(x, thin.A), thin.B)


class Adapted(nn.Module):
    """The thin layer: frozen product, bias, and a delta where the rank is not zero."""

    def __init__(
        self, frozen: Frozen, bias: Tensor | None, adapter: Adapter | SvdAdapter | None
    ) -> None:
        super().__init__()
        self.frozen, self.adapter = frozen, adapter
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        if self.adapter is None:
            return self.frozen(x, self.bias)
        thin, rate = self.adapter.thin(x.dtype), self.adapter.dropout
        dropped = dropout(x, rate) if rate and self.training else None
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return AdaptedProduct.apply(x, dropped, thin.A, thin.B, thin.scale, self.frozen, bias)


class FrozenEmbedding(nn.Module):
    """Looks up rows of a stored matrix and decodes only those."""

    def __init__(self, frozen: Frozen, compute: torch.dtype) -> None:
        super().__init__()
        self.frozen, self.compute = frozen, compute

    def forward(self, ids: Tensor) -> Tensor:
        found = self.frozen.rows(ids.reshape(-1), self.compute)
        return found.view(*ids.shape, -1)


class Trained(nn.Module):
    """A linear layer trained in full precision, whatever the compute type around it.

    It hands on `out`: fp32 from a head to the loss, the compute type from one block to the next.
    `turned`: the module that it replaced keeps its weight as (in, out).
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        out: torch.dtype = torch.float32,
        turned: bool = False,
    ) -> None:
        super().__init__()
        self.out, self.turned = out, turned
        self.weight = nn.Parameter(weight.detach().float().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone())

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return product(x.float(), self.weight, self.bias).to(self.out)

    def exported(self) -> dict[str, Tensor]:
        """Views of what is trained, shaped as in the module that was replaced."""
        weight = self.weight.detach()
        named = {"weight": weight.t() if self.turned else weight}
        return named if self.bias is None else {**named, "bias": self.bias.detach()}
