"""What an adapter of a given rank can correct at a site, in the metric of its K-FAC factors.

By Eckart and Young, the best rank-r correction of an error e leaves the singular values of
G^1/2 e A^1/2 after the r-th. The task's gradient, whitened by the same factors, likewise says what
a step of rank r could gain. Both are of second order. Factors are damped before they are inverted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.sensitivity.curvature import Factors

DAMPING = 1e-3
"""Added to every eigenvalue before taking a power, as a share of the mean eigenvalue."""
STEP_DAMPING = 0.3
"""The same for gradient steps: directions that little text did not show are not flat."""


@dataclass(frozen=True)
class Axes:
    """A factor's eigenvalues, ascending, and eigenvectors (None for a diagonal factor).

    Computing them costs more than everything else here, so it is done once per site.
    """

    values: Tensor
    vectors: Tensor | None

    @classmethod
    def of(cls, factor: Tensor) -> Axes:
        if factor.dim() == 1:
            return cls(factor, None)
        return cls(*torch.linalg.eigh(factor.double()))

    def power(self, exponent: float, damping: float = DAMPING) -> Tensor:
        """The damped factor to a power; a diagonal factor stays diagonal."""
        positive = self.values.clamp(min=0)
        damped = positive + damping * positive.mean()
        # A matrix with no inputs or no influence on the loss has no direction at all.
        raised = torch.where(damped > 0, damped.pow(exponent), 0.0)
        if self.vectors is None:
            return raised
        return ((self.vectors * raised) @ self.vectors.t()).float()


Metric = tuple[Axes, Axes]
"""The axes of a site's output factor and of its input factor."""


def metric(factors: Factors) -> Metric:
    assert factors.inputs is not None
    assert factors.outputs is not None
    return Axes.of(factors.outputs), Axes.of(factors.inputs)


def absorbed_shares(
    sides: Metric, errors: Iterable[Tensor], ranks: Sequence[int]
) -> list[tuple[float, ...]]:
    """For every error, the share of 1/2 sum sigma_i^2 that the best correction of each rank
    recovers, with sigma the singular values of G^1/2 e A^1/2."""
    left, right = (side.power(0.5) for side in sides)
    shares = []
    for error in errors:
        squares = torch.linalg.svdvals(_times(left, error) @ right).square()
        total = float(squares.sum())
        shares.append(tuple(float(squares[:r].sum()) / total if total > 0 else 0.0 for r in ranks))
    return shares


@dataclass(frozen=True)
class GradientSteps:
    """The steps of every rank down a site's gradient, from one half of the text.

    The whitened gradient of that half as singular directions; `shared`: the component of the other
    half's gradient along each. Noise differs between the halves, so it gains nothing.
    """

    sides: tuple[Tensor, Tensor]
    outer: Tensor
    values: Tensor
    inner: Tensor
    shared: Tensor

    @classmethod
    def of(cls, sides: Metric, half: Tensor, other: Tensor) -> GradientSteps:
        left, right = (side.power(-0.5, STEP_DAMPING) for side in sides)
        outer, values, inner = torch.linalg.svd(_times(left, half) @ right, full_matrices=False)
        shared = ((outer.t() @ (_times(left, other) @ right)) * inner).sum(1)
        return cls((left, right), outer, values, inner, shared)

    def step(self, rank: int) -> Tensor:
        """The best step of this rank down the half's own gradient."""
        left, right = self.sides
        low = (self.outer[:, :rank] * self.values[:rank]) @ self.inner[:rank]
        return -_times(left, low) @ right

    def gains(self, ranks: Sequence[int]) -> tuple[float, ...]:
        """What steps of these ranks gain on the other half, to first order."""
        total = 0.5 * (self.values * self.shared).cumsum(0).cummax(0).values.clamp(min=0)
        return tuple(float(total[min(rank, len(total)) - 1]) for rank in ranks)


def spectrum(side: Axes, parts: int = 32) -> tuple[float, ...]:
    """The damped eigenvalues, ascending, as geometric means of equally long stretches.

    The bound (23) computed from these is never above that of all eigenvalues: eigenvalues above the
    water level count by their logarithm, and those below it count for less. They are damped because
    some directions do not occur in little text.
    """
    values = side.values.clamp(min=0).sort().values
    pieces = (values + DAMPING * values.mean()).tensor_split(min(parts, len(values)))
    return tuple(float(piece.log().mean().exp()) for piece in pieces)


def _times(left: Tensor, matrix: Tensor) -> Tensor:
    return left[:, None] * matrix if left.dim() == 1 else left @ matrix
