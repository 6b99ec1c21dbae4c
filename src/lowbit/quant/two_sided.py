"""Rounds a matrix towards the model's loss, with the errors of its rows in mind as well.

Calibrated rounding rounds each row by itself. K-FAC's curvature of the loss has two sides,
    tr G E A E',  E = W - Q,  A of the inputs,  G = mean of g g' over the output gradients g,
so an error of one row can make up for that of another (YAQA: Tseng et al. 2025). Some rows at a
time are rounded with their inputs in mind, and the rows that are still to come are moved to where
they cost least, given these errors.

G is estimated from few tokens, so it is damped with its mean diagonal, more than A. The result is
compared with calibrated and with nearest rounding, and the best by this objective is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lowbit.core.errors import RunError
from lowbit.core.spec import QuantSpec
from lowbit.quant.calibrated import encode_rows, join_rows, levels_or_error, rows_are_apart
from lowbit.quant.codec import Packed, decode, encode
from lowbit.quant.input_metric import InputMetric, Moment, upper_of_inverse

DAMPING = 1.0
"""Added to G's diagonal, as a share of its mean."""
ROWS = 64
"""Rows that are rounded at a time, each as if by itself."""

OutputFactors = Sequence[Tensor]
"""G of consecutive rows; between those of two factors nothing is known."""


def encode_two_sided(
    weight: Float[Tensor, "rows columns"], spec: QuantSpec, moment: Moment, factors: OutputFactors
) -> Packed:
    """Store a matrix so that the loss changes least by K-FAC's curvature.

    Args:
        weight: The matrix, (out, in).
        spec: A format with levels.
        moment: The mean of x x' over the layer's inputs x.
        factors: The mean of g g' over the gradients g of consecutive outputs.

    Returns:
        The matrix in the same format and bytes as `encode` gives. Rows that share a scale (`+dq`,
        `@tensor`) cannot follow one another; they are rounded as calibrated.

    Raises:
        UserError: The format has no levels.
        RunError: A moment or factor is not finite or not that of anything.
    """
    levels_or_error(spec)
    weight = weight.detach().float()
    factors, inputs = [_damped(factor) for factor in factors], InputMetric.of(moment, spec)
    if sum(map(len, factors)) != len(weight):
        raise RunError(f"{sum(map(len, factors))} rows of gradients for {len(weight)} rows")
    candidates = [encode(weight, spec), encode_rows(weight, spec, inputs)]
    if rows_are_apart(spec):
        parts = zip(weight.split([len(factor) for factor in factors]), factors, strict=True)
        rounded = [_with_row_feedback(rows, spec, inputs, factor) for rows, factor in parts]
        candidates.append(join_rows(rounded))
    return min(candidates, key=lambda packed: _error(weight, packed, inputs.moment, factors))


def loss_error(
    weight: Float[Tensor, "rows columns"], packed: Packed, moment: Moment, factors: OutputFactors
) -> float:
    """tr G E A E' with the damped G: what this rounding makes small."""
    return _error(weight.float(), packed, moment.float(), [_damped(factor) for factor in factors])


def _error(weight: Tensor, packed: Packed, moment: Tensor, damped: OutputFactors) -> float:
    error = weight - decode(packed)
    parts = zip(error.split([len(factor) for factor in damped]), damped, strict=True)
    return sum(float(((factor @ rows) * (rows @ moment)).sum()) for rows, factor in parts)


def _damped(factor: Tensor) -> Tensor:
    """The factor, symmetric and damped; the identity if no output has a gradient."""
    if not bool(torch.isfinite(factor).all()):
        raise RunError("the gradients on calibration text are not finite")
    mean = float(factor.diagonal().mean())
    if mean <= 0:
        return torch.eye(len(factor))
    damped = (factor + factor.t()).float() / 2
    damped.diagonal().add_(DAMPING * mean)
    return damped


def _with_row_feedback(
    weight: Tensor, spec: QuantSpec, inputs: InputMetric, factor: Tensor
) -> Packed:
    """Round some rows after others, and move the later ones to make up for their errors."""
    upper = upper_of_inverse(factor)
    if upper is None:
        raise RunError("the gradients' factor on calibration text is not that of any gradients")
    left, parts = weight.clone(), []
    for low in range(0, len(weight), ROWS):
        part = slice(low, min(low + ROWS, len(weight)))
        packed = encode_rows(left[part], spec, inputs)
        error = left[part] - decode(packed)
        # With U'U the inverse of G, the best move of the later rows is U_po' (U_pp')^-1 e.
        scaled = torch.linalg.solve_triangular(upper[part, part].t(), error, upper=False)
        left[part.stop :] -= upper[part, part.stop :].t() @ scaled
        parts.append(packed)
    return join_rows(parts)
