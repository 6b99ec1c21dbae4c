"""Where a group's scale comes from, and how it is stored.

Every rule is a function of blocks (rows x groups x size) and the format's levels. What matters to
the encoder is the scale *as stored*: fp16, or one byte against blocks of 256 scales (`+dq`), so
fitting and storing are two steps and codes are chosen after the second.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lowbit.core.spec import ScaleRule

Blocks = Float[Tensor, "rows groups size"]
Scales = Float[Tensor, "rows groups"]

SMALLEST = 2.0**-24  # fp16's smallest number above zero
LARGEST = 65504.0
_SEARCH = 64
_ROUNDS = 12


def fit(blocks: Blocks, levels: Float[Tensor, " levels"], rule: ScaleRule) -> Scales:
    """One scale a group, before rounding to how it is stored."""
    if rule == "absmax":
        return blocks.abs().amax(-1)
    if rule == "absmean":
        return blocks.abs().mean(-1)
    if rule == "lsq":
        return _least_squares(blocks, levels)
    return _search(blocks, levels)


def nearest(values: Tensor, levels: Float[Tensor, " levels"]) -> Tensor:
    """Index of the nearest level; a tie goes to the lower one."""
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2, out_int32=True)


def divide(blocks: Blocks, scale: Scales) -> Blocks:
    """Weights over their scale; a zero scale gives zeros."""
    return blocks / torch.where(scale == 0, 1.0, scale)[..., None]


def _error(blocks: Blocks, levels: Tensor, scale: Scales) -> Scales:
    decoded = levels[nearest(divide(blocks, scale), levels)] * scale[..., None]
    return (blocks - decoded).square().sum(-1)


def _search(blocks: Blocks, levels: Tensor) -> Scales:
    """The best of 64 shrinkings of absmax: never worse than absmax itself, which is the first."""
    full = blocks.abs().amax(-1)
    best, least = full, _error(blocks, levels, full)
    for step in range(1, _SEARCH):
        scale = full * (1 - 0.9 * step / _SEARCH)
        error = _error(blocks, levels, scale)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def _least_squares(blocks: Blocks, levels: Tensor) -> Scales:
    """Alternate nearest codes and the scale that fits them best (Lloyd's iteration in one number).

    Starts where the codes are meaningful: from the mean for three levels, else from the largest.
    """
    size = blocks.abs()
    scale = size.mean(-1) if len(levels) == 3 else size.amax(-1)
    best, least = scale, _error(blocks, levels, scale)
    for _ in range(_ROUNDS):
        chosen = levels[nearest(divide(blocks, scale), levels)]
        power = chosen.square().sum(-1)
        fitted = (blocks * chosen).sum(-1) / torch.where(power == 0, 1.0, power)
        scale = torch.where(fitted > 0, fitted, scale)
        error = _error(blocks, levels, scale)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def to_half(scale: Tensor) -> Tensor:
    """fp16 that is zero only for a zero group and never infinite."""
    kept = scale.clamp(max=LARGEST)
    return torch.where(kept > 0, kept.clamp(min=SMALLEST), kept).to(torch.float16)
