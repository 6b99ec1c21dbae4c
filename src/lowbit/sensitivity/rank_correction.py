"""What an adapter of some rank can do at a site, in the metric of its K-FAC factors.

Eckart and Young: the best rank-r correction of an error e leaves the singular values of
G^1/2 e A^1/2 beyond the r-th. A task's gradient, whitened by the same factors, says likewise what a
step of rank r could win. Both are of second order, and factors are damped before they are inverted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit.sensitivity.curvature import Factors

DAMPING = 1e-3
"""Of the mean eigenvalue, added to every one before a power is taken."""
STEP_DAMPING = 0.3
"""The same for steps of a gradient: what few tokens did not show is no flat direction."""


@dataclass(frozen=True)
class Axes:
    """A factor's eigenvalues, ascending, and its eigenvectors: none of a diagonal one, whose values
    stay in their places.

    Finding them costs more than all that is asked of them, so it is done once a site.
    """

    values: Tensor
    vectors: Tensor | None

    @classmethod
    def of(cls, factor: Tensor) -> Axes:
        if factor.dim() == 1:
            return cls(factor, None)
        return cls(*torch.linalg.eigh(factor.double()))

    def power(self, exponent: float, damping: float = DAMPING) -> Tensor:
        """The factor to a power, damped; a diagonal stays one."""
        positive = self.values.clamp(min=0)
        damped = positive + damping * positive.mean()
        # A matrix that nothing reaches, or that nothing depends on, has no direction to go in.
        raised = torch.where(damped > 0, damped.pow(exponent), 0.0)
        if self.vectors is None:
            return raised
        return ((self.vectors * raised) @ self.vectors.t()).float()


Metric = tuple[Axes, Axes]
"""Of a site's outputs and of its inputs."""


def metric(factors: Factors) -> Metric:
    assert factors.inputs is not None
    assert factors.outputs is not None
    return Axes.of(factors.outputs), Axes.of(factors.inputs)


def absorbed_shares(
    sides: Metric, errors: Iterable[Tensor], ranks: Sequence[int]
) -> list[tuple[float, ...]]:
    """Of 1/2 sum sigma_i^2 (G^1/2 e A^1/2), what the best correction of each rank takes back, for
    each of some errors."""
    left, right = (side.power(0.5) for side in sides)
    found = []
    for error in errors:
        squares = torch.linalg.svdvals(_times(left, error) @ right).square()
        total = float(squares.sum())
        found.append(tuple(float(squares[:r].sum()) / total if total > 0 else 0.0 for r in ranks))
    return found


@dataclass(frozen=True)
class Ascent:
    """A site's gradient on one half of the text, whitened, as singular directions; `met`: what the
    other half's gradient has along each. Noise has no two halves alike.
    """

    sides: tuple[Tensor, Tensor]
    outer: Tensor
    values: Tensor
    inner: Tensor
    met: Tensor

    @classmethod
    def of(cls, sides: Metric, one: Tensor, two: Tensor) -> Ascent:
        left, right = (side.power(-0.5, STEP_DAMPING) for side in sides)
        outer, values, inner = torch.linalg.svd(_times(left, one) @ right, full_matrices=False)
        met = ((outer.t() @ (_times(left, two) @ right)) * inner).sum(1)
        return cls((left, right), outer, values, inner, met)

    def step(self, rank: int) -> Tensor:
        """Down the half's own gradient, by the best step of this rank."""
        left, right = self.sides
        low = (self.outer[:, :rank] * self.values[:rank]) @ self.inner[:rank]
        return -_times(left, low) @ right

    def gains(self, ranks: Sequence[int]) -> tuple[float, ...]:
        """What steps of these ranks win on the other half, to first order."""
        won = 0.5 * (self.values * self.met).cumsum(0).cummax(0).values.clamp(min=0)
        return tuple(float(won[min(rank, len(won)) - 1]) for rank in ranks)


def spectrum(side: Axes, parts: int = 32) -> tuple[float, ...]:
    """Eigenvalues, ascending, as the geometric means of so many equal stretches.

    What is above the water in (23) counts by its logarithm, and what is below by less than it is:
    a limit from these is never above that of all eigenvalues. They are damped, since few tokens
    leave directions that none of them happened to take.
    """
    values = side.values.clamp(min=0).sort().values
    pieces = (values + DAMPING * values.mean()).tensor_split(min(parts, len(values)))
    return tuple(float(piece.log().mean().exp()) for piece in pieces)


def _times(left: Tensor, matrix: Tensor) -> Tensor:
    return left[:, None] * matrix if left.dim() == 1 else left @ matrix
