"""Rounds a language model's head, which may be tied to its embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.core.spec import QuantSpec, Site
from lowbit.quant.calibrated import encode_calibrated
from lowbit.quant.codec import Packed

LOOKUP_SHARE = 0.1
"""How much an error of a tied embedding counts where it is looked up: this share of the mean square
of the head's inputs, in every direction alike. Both uses of a row weigh as often as its token."""
HEAD_ROWS = 4096
"""Rows of a head that are rounded at a time: rounding takes several times their memory."""


def of_both_uses(site: Site, moment: Tensor) -> Tensor:
    """The moment of a head's inputs; of a tied embedding, also that of its look-ups."""
    if site.role != "embedding":
        return moment
    share = LOOKUP_SHARE * float(moment.diagonal().mean())
    return moment + share * torch.eye(len(moment))


def encode_head(weight: Tensor, spec: QuantSpec, moment: Tensor) -> Packed:
    """Calibrated rounding of a matrix with many rows, some at a time if their scales allow it."""
    if spec.dq or spec.group == "tensor":
        return encode_calibrated(weight, spec, moment)
    parts = [encode_calibrated(rows, spec, moment) for rows in weight.split(HEAD_ROWS)]
    names = parts[0].tensors()
    joined = {name: torch.cat([part.tensors()[name] for part in parts]) for name in names}
    return Packed(spec, (weight.shape[0], weight.shape[1]), **joined)
