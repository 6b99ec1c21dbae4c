"""Rounds a language model's head, which may be tied to its embedding."""

from __future__ import annotations

from torch import Tensor

from lowbit.core.spec import QuantSpec, Site
from lowbit.quant.calibrated import (
    encode_calibrated,
    encode_rows,
    join_rows,
    rows_are_apart,
)
from lowbit.quant.codec import Packed
from lowbit.quant.input_metric import LOOKUP_SHARE, InputMetric, with_every_direction

HEAD_ROWS = 4096
"""Rows of a head that are rounded at a time: rounding takes several times their memory."""


def of_both_uses(site: Site, moment: Tensor) -> Tensor:
    """The moment of a head's inputs; of a tied embedding, also that of its look-ups."""
    if site.role != "embedding":
        return moment
    return with_every_direction(moment, LOOKUP_SHARE)


def encode_head(weight: Tensor, spec: QuantSpec, moment: Tensor) -> Packed:
    """Calibrated rounding of a matrix with many rows, some at a time if their scales allow it."""
    if not rows_are_apart(spec):
        return encode_calibrated(weight, spec, moment)
    inputs = InputMetric.of(moment, spec)
    return join_rows([encode_rows(rows, spec, inputs) for rows in weight.split(HEAD_ROWS)])
