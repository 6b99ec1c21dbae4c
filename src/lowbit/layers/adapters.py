"""Low-rank adapters, started at zero or at the quantisation error.

An adapter adds (alpha / r) (x A') B' to a layer's output. `Adapter` is LoRA. `SvdAdapter` is
AdaLoRA's form: every direction has a singular value, so that a schedule can cut the weakest ones.

`init = "residual"` starts B A at the best rank-r approximation (Eckart-Young) of W minus the
decoded W, so training starts closer to the unquantised model. It needs one singular value
decomposition in fp32 and works for any format on any device. LoftQ alternates this step with
re-encoding W; here it is done once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

DAMPING = 1e-4
"""The least weight of a direction, as a share of the inputs' mean square."""


class ScaledFactors(NamedTuple):
    """The factors of an adapter, ready to multiply: scale (x A') B'."""

    A: Float[Tensor, "rank in"]
    B: Float[Tensor, "out rank"]
    scale: float


class Adapter(nn.Module):
    """The low-rank delta (alpha / r) (x A') B'. B starts at zero, so the delta starts at zero."""

    def __init__(
        self, rank: int, shape: tuple[int, int], alpha: float, dropout: float, seed: torch.Generator
    ) -> None:
        super().__init__()
        rows, columns = shape
        bound = 1 / math.sqrt(columns)
        self.scaling, self.dropout = alpha / rank, dropout
        self.A = nn.Parameter(torch.empty(rank, columns).uniform_(-bound, bound, generator=seed))
        self.B = nn.Parameter(torch.zeros(rows, rank))

    def scaled_factors(self, dtype: torch.dtype) -> ScaledFactors:
        """A, B and their scale in the compute type."""
        return ScaledFactors(self.A.to(dtype), self.B.to(dtype), self.scaling)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return delta(x, self)

    def factors(self) -> tuple[Tensor, Tensor]:
        """(A, B) with the scaling folded in: delta W = B A."""
        return self.A.detach(), (self.scaling * self.B).detach()


class SvdAdapter(nn.Module):
    """The adaptive delta (alpha / r) ((x A') * E) B', with one singular value per direction.

    `alive` masks the directions that a schedule has cut; `factors` leaves them out.
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

    def scaled_factors(self, dtype: torch.dtype) -> ScaledFactors:
        """A times the singular values that are not cut, B, and a scale of 1."""
        scaled = self.A * (self.scaling * self.E * self.alive)[:, None]
        return ScaledFactors(scaled.to(dtype), self.B.to(dtype), 1.0)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return delta(x, self)

    def factors(self) -> tuple[Tensor, Tensor]:
        """(A, B) of the directions not cut, with scaling and singular values folded in."""
        scaled = self.A * (self.scaling * self.E)[:, None]
        return scaled[self.alive].detach(), self.B[:, self.alive].detach()


def delta(x: Float[Tensor, "... in"], adapter: Adapter | SvdAdapter) -> Float[Tensor, "... out"]:
    """An adapter's output alone, by the formula; tests compare `AdaptedProduct` with it."""
    factors = adapter.scaled_factors(x.dtype)
    x = F.dropout(x, adapter.dropout, adapter.training)
    return factors.scale * F.linear(F.linear(x, factors.A), factors.B)


def best_factors(
    residual: Float[Tensor, "out in"], rank: int
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, " rank"], Float[Tensor, "out rank"]]:
    """(right vectors, singular values, left vectors) of the `rank` largest directions."""
    left, values, right = torch.linalg.svd(residual, full_matrices=False)
    return right[:rank], values[:rank], left[:, :rank]


@torch.no_grad()
def weighted_factors(
    residual: Float[Tensor, "out in"], moment: Float[Tensor, "in in"], rank: int
) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]:
    """The factors of the delta that changes the layer's outputs least from the exact ones.

    It minimises tr (R - D) H (R - D)' over D of this rank, for the residual R and the inputs'
    second moment H: the truncated SVD of R H^(1/2), times H^(-1/2) (QERA, CLoQ).
    """
    values, vectors = torch.linalg.eigh(moment.double())
    # Directions without any input get a small weight, so that they cannot grow without bound.
    values = values.clamp(min=DAMPING * float(values.mean().clamp(min=1e-12)))
    root = vectors * values.sqrt() @ vectors.t()
    inverse = vectors / values.sqrt() @ vectors.t()
    right, size, left = best_factors((residual.double() @ root).float(), rank)
    return left * size, (right.double() @ inverse).float()


@torch.no_grad()
def start_from_residual(adapter: Adapter | SvdAdapter, residual: Tensor) -> None:
    """Set an adapter so that its scaled delta is the residual's best approximation."""
    right, values, left = best_factors(residual.float(), len(adapter.A))
    if isinstance(adapter, SvdAdapter):
        adapter.A.copy_(right)
        adapter.B.copy_(left)
        adapter.E.copy_(values / adapter.scaling)
        return
    root = values.sqrt()
    adapter.A.copy_(root[:, None] * right)
    adapter.B.copy_(left * root / adapter.scaling)
