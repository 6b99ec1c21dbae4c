"""Low-rank adapters, and where they start: at zero, or at what quantisation took away.

An adapter adds (alpha / r) (x A') B' to a layer's output. `Adapter` is LoRA; `SvdAdapter` gives
every direction a singular value, so that a schedule can cut the weakest ones.

`init = "residual"` starts B A at the best rank-r approximation (Eckart-Young) of W minus the
decoded W, so the first step begins closer to the unquantised model. It works for any format on any
device: it takes one singular value decomposition in fp32. LoftQ alternates this with encoding
again; here it is done once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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


def best_factors(
    residual: Float[Tensor, "out in"], rank: int
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, " rank"], Float[Tensor, "out rank"]]:
    """(right vectors, singular values, left vectors) of the `rank` largest directions."""
    left, values, right = torch.linalg.svd(residual, full_matrices=False)
    return right[:rank], values[:rank], left[:, :rank]


@torch.no_grad()
def start_from_residual(adapter: Adapter | SvdAdapter, residual: Tensor) -> None:
    """Set an adapter to the residual's best approximation, its scaling taken out."""
    right, values, left = best_factors(residual.float(), len(adapter.A))
    if isinstance(adapter, SvdAdapter):
        adapter.A.copy_(right)
        adapter.B.copy_(left)
        adapter.E.copy_(values / adapter.scaling)
        return
    root = values.sqrt()
    adapter.A.copy_(root[:, None] * right)
    adapter.B.copy_(left * root / adapter.scaling)
