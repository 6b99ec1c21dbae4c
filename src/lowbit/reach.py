"""What an adapter of some rank can do at a site, in the metric of its K-FAC factors.

Eckart and Young: the best rank-r correction of an error e leaves the singular values of
G^1/2 e A^1/2 beyond the r-th. A task's gradient, whitened by the same factors, says likewise what a
step of rank r could win. Both are of second order, and factors are damped before they are inverted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lowbit.curvature import Factors

DAMPING = 1e-3
"""Of the mean eigenvalue, added before a factor is inverted."""


def absorbed_share(factors: Factors, error: Tensor, ranks: Sequence[int]) -> tuple[float, ...]:
    """Of 1/2 sum sigma_i^2 (G^1/2 e A^1/2), what the best correction of each rank takes back."""
    assert factors.inputs is not None
    assert factors.outputs is not None
    left, right = _power(factors.outputs, 0.5), _power(factors.inputs, 0.5)
    squares = torch.linalg.svdvals(_times(left, error) @ right).square()
    total = float(squares.sum())
    return tuple(float(squares[:r].sum()) / total if total > 0 else 0.0 for r in ranks)


def gains(factors: Factors, gradient: Tensor, ranks: Sequence[int]) -> tuple[float, ...]:
    """1/2 sum_{i <= r} sigma_i^2 of the whitened gradient: what a rank-r step could win."""
    assert factors.inputs is not None
    assert factors.outputs is not None
    left, right = _power(factors.outputs, -0.5), _power(factors.inputs, -0.5)
    squares = torch.linalg.svdvals(_times(left, gradient) @ right).square()
    return tuple(0.5 * float(squares[:r].sum()) for r in ranks)


def spectrum(factor: Tensor, parts: int = 32) -> tuple[float, ...]:
    """Eigenvalues, ascending, as the geometric means of so many equal stretches.

    What is above the water in (23) counts by its logarithm, and what is below by less than it is:
    a limit from these is never above that of all eigenvalues.
    """
    values = factor.sort().values if factor.dim() == 1 else torch.linalg.eigvalsh(factor.double())
    pieces = values.clamp(min=0).tensor_split(min(parts, len(values)))
    return tuple(float(piece.log().mean().exp()) for piece in pieces)


def _times(left: Tensor, matrix: Tensor) -> Tensor:
    return left[:, None] * matrix if left.dim() == 1 else left @ matrix


def _power(factor: Tensor, exponent: float) -> Tensor:
    """A factor to a power, damped; a diagonal stays one."""
    if factor.dim() == 1:
        return (factor + DAMPING * factor.mean()).pow(exponent)
    values, vectors = torch.linalg.eigh(factor.double())
    damped = values.clamp(min=0) + DAMPING * values.clamp(min=0).mean()
    return ((vectors * damped.pow(exponent)) @ vectors.t()).to(factor.dtype)
