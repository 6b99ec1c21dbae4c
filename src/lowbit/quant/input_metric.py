"""What rounding needs of a layer's inputs: their second moment, and the order of its columns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lowbit.core.errors import RunError
from lowbit.core.spec import QuantSpec

DAMPING = 0.01
"""Added to H's diagonal, as a share of its mean."""

LOOKUP_SHARE = 0.1
"""How much an error of a tied embedding counts where it is looked up: this share of the mean square
of the head's inputs, in every direction alike. Both uses of a row weigh as often as its token."""

Moment = Float[Tensor, "columns columns"]


@dataclass(frozen=True)
class InputMetric:
    """A layer's inputs, made ready for rounding any rows of its matrix.

    `order`: the columns in the order in which they are rounded. `factor`: the Cholesky factor of
    the inverse moment in that order.
    """

    moment: Moment
    order: Tensor
    factor: Tensor

    @classmethod
    def of(cls, moment: Moment, spec: QuantSpec) -> InputMetric:
        moment = _checked(moment.float())
        order = _order(moment.diagonal(), group_size(len(moment), spec))
        return cls(moment, order, _inverse_factor(moment[order][:, order]))


def with_every_direction(moment: Moment, share: float) -> Moment:
    """A moment with a share of its mean added in every direction alike."""
    return moment + share * float(moment.diagonal().mean()) * torch.eye(len(moment))


def group_size(columns: int, spec: QuantSpec) -> int:
    """How many neighbouring columns have one scale."""
    return columns if spec.group in ("tensor", "row") else min(int(spec.group), columns)


def _checked(moment: Moment) -> Moment:
    """The moment, symmetric, after a check that it may be one."""
    if not bool(torch.isfinite(moment).all()):
        raise RunError("the inputs on calibration text are not finite")
    if bool((moment.diagonal() < 0).any()):
        raise RunError("the inputs' moment has a negative diagonal")
    return (moment + moment.t()) / 2


def left_by_later_columns(moment: Moment, spec: QuantSpec) -> Tensor | None:
    """The mean square of each input that those of the columns rounded later do not explain.

    It is what a squared error of that column costs once they make up for it. None if the damped
    moment is not positive definite.
    """
    moment = _checked(moment)
    order = _order(moment.diagonal(), group_size(len(moment), spec)).flip(0)
    # In reverse order, a Cholesky factor's diagonal is what earlier rows leave unexplained.
    lower, failed = torch.linalg.cholesky_ex(_damped(moment[order][:, order], DAMPING))
    if int(failed):
        return None
    left = torch.empty(len(moment))
    left[order] = lower.diagonal().square()
    return left


def upper_of_inverse(matrix: Tensor) -> Tensor | None:
    """The upper Cholesky factor of a matrix's inverse; None if it is not positive definite."""
    lower, failed = torch.linalg.cholesky_ex(matrix.double())
    if int(failed):
        return None
    factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if int(failed) else factor.float()


def _inverse_factor(moment: Moment) -> Tensor:
    """The upper Cholesky factor of the damped moment's inverse; more damping where it fails."""
    for damping in (DAMPING, 10 * DAMPING, 1.0):
        factor = upper_of_inverse(_damped(moment, damping))
        if factor is not None:
            return factor
    raise RunError("the inputs' moment on calibration text is not that of any inputs")


def _damped(moment: Moment, damping: float) -> Moment:
    mean = float(moment.diagonal().mean()) or 1.0
    damped = moment.clone()
    damped.diagonal().add_(damping * mean)
    # An input that was always zero gets the mean: its weights are rounded on their own.
    damped.diagonal()[moment.diagonal() == 0] = mean
    return damped


def _order(importance: Tensor, size: int) -> Tensor:
    """All columns, group after group; within a group the largest inputs first."""
    groups = importance.split(size)
    starts = range(0, len(importance), size)
    parts = [
        s + g.argsort(descending=True, stable=True) for s, g in zip(starts, groups, strict=True)
    ]
    return torch.cat(parts)
