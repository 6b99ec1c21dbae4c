"""What an adapter of a given rank can correct at a site, in the metric of its K-FAC factors.

By Eckart and Young, the best rank-r correction of an error e leaves the singular values of
G^1/2 e A^1/2 after the r-th. The task's gradient, whitened by the same factors, likewise says what
a step of rank r could gain. Both are of second order. Factors are damped before they are inverted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.curvature.site_curvature import Factors

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
        try:
            # fp32 is enough: its error is far below the damping, and it is twice as fast.
            return cls(*torch.linalg.eigh(factor))
        except RuntimeError:  # it did not converge
            values, vectors = torch.linalg.eigh(factor.double())
            return cls(values.to(factor.dtype), vectors.to(factor.dtype))

    def power(self, exponent: float, damping: float = DAMPING) -> Tensor:
        """The damped factor to a power; a diagonal factor stays diagonal."""
        positive = self.values.clamp(min=0)
        damped = positive + damping * positive.mean()
        # A matrix with no inputs or no influence on the loss has no direction at all.
        raised = torch.where(damped > 0, damped.pow(exponent), 0.0)
        if self.vectors is None:
            return raised
        return (self.vectors * raised) @ self.vectors.t()


class SharedAxes:
    """Axes of factors; matrices with the same input have the same."""

    def __init__(self) -> None:
        self.last: tuple[Tensor, Axes] | None = None

    def inputs(self, factor: Tensor) -> Axes:
        if self.last is None or self.last[0] is not factor:
            self.last = (factor, Axes.of(factor))
        return self.last[1]


Metric = tuple[Axes, Axes]
"""The axes of a site's output factor and of its input factor."""


def metric(factors: Factors, of_inputs: Callable[[Tensor], Axes] = Axes.of) -> Metric:
    """`of_inputs`: gives the axes of an input factor, which several matrices may share."""
    assert factors.inputs is not None
    assert factors.outputs is not None
    return Axes.of(factors.outputs), of_inputs(factors.inputs)


@dataclass(frozen=True)
class Roots:
    """G^1/2 and A^1/2 of a site."""

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, sides: Metric) -> Roots:
        return cls(*(side.power(0.5) for side in sides))

    def absorbed(self, error: Tensor, ranks: Sequence[int]) -> tuple[float, ...]:
        """The share of 1/2 sum sigma_i^2 that the best correction of each rank recovers, with sigma
        the singular values of G^1/2 e A^1/2."""
        whitened = _times(self.left, error) @ self.right
        if not bool(torch.isfinite(whitened).all()):
            return tuple(0.0 for _ in ranks)
        squares = squared_singular_values(whitened)
        total = float(squares.sum())
        return tuple(float(squares[:r].sum()) / total if total > 0 else 0.0 for r in ranks)


def squared_singular_values(matrix: Tensor) -> Tensor:
    """Largest first, as the eigenvalues of the smaller Gram matrix: shares need no small ones."""
    gram = matrix @ matrix.t() if matrix.shape[0] <= matrix.shape[1] else matrix.t() @ matrix
    return torch.linalg.eigvalsh(gram).clamp(min=0).flip(0)


@dataclass(frozen=True)
class LowRank:
    """A matrix as the product of a tall and a wide one."""

    tall: Tensor
    wide: Tensor

    def matrix(self) -> Tensor:
        return self.tall @ self.wide


@dataclass(frozen=True)
class GradientSteps:
    """The steps of every rank down a site's gradient, from one half of the text.

    The whitened gradient of that half as its `most` largest singular directions; `shared`: the
    component of the other half's gradient along each. Noise differs between the halves, so it gains
    nothing.
    """

    sides: tuple[Tensor, Tensor]
    outer: Tensor
    values: Tensor
    inner: Tensor
    shared: Tensor

    @classmethod
    def of(cls, sides: Metric, half: Tensor, other: Tensor, most: int) -> GradientSteps:
        left, right = (side.power(-0.5, STEP_DAMPING) for side in sides)
        outer, values, inner = top_singular(_times(left, half) @ right, most)
        shared = ((outer.t() @ (_times(left, other) @ right)) * inner).sum(1)
        return cls((left, right), outer, values, inner, shared)

    def step(self, rank: int) -> LowRank:
        """The best step of this rank down the half's own gradient."""
        left, right = self.sides
        tall = _times(left, self.outer[:, :rank] * -self.values[:rank])
        return LowRank(tall, self.inner[:rank] @ right)

    def gains(self, ranks: Sequence[int]) -> tuple[float, ...]:
        """What steps of these ranks gain on the other half, to first order."""
        total = 0.5 * (self.values * self.shared).cumsum(0).cummax(0).values.clamp(min=0)
        return tuple(float(total[min(rank, len(total)) - 1]) for rank in ranks)


def top_singular(matrix: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `most` largest singular values and their directions, from the smaller Gram matrix.

    That is several times faster than all of them, and exact enough for the largest.
    """
    if matrix.shape[0] > matrix.shape[1]:
        inner, values, outer = top_singular(matrix.t(), most)
        return outer.t(), values, inner.t()
    squares, vectors = torch.linalg.eigh((matrix @ matrix.t()).double())
    count = min(most, len(squares))
    outer = vectors[:, -count:].flip(1).to(matrix.dtype)
    values = squares[-count:].flip(0).clamp(min=0).sqrt().to(matrix.dtype)
    # A direction with no singular value has no partner; it moves nothing.
    inner = (outer.t() @ matrix) / values.clamp(min=torch.finfo(matrix.dtype).tiny)[:, None]
    return outer, values, inner


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
