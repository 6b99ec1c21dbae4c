"""Compute the scale of each group of weights, and round it as it is stored.

A scale rule is a function of blocks (rows x groups x size) and the format's levels. The encoder
first fits scales and rounds them to their stored form: fp16, or one byte per scale in blocks of 256
(`+dq`). It chooses codes afterwards, for the scales that decoding will use.
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
_FEW_LEVELS = 16
_IN_CACHE = 2**17
_SEARCH = 64
_ROUNDS = 12


def fit(blocks: Blocks, levels: Float[Tensor, " levels"], rule: ScaleRule) -> Scales:
    """One scale per group, not yet rounded to its stored form."""
    if rule == "absmax":
        return blocks.abs().amax(-1)
    if rule == "absmean":
        return blocks.abs().mean(-1)
    if rule == "lsq":
        return _least_squares(blocks, levels)
    return _search(blocks, levels)


def nearest(values: Tensor, levels: Float[Tensor, " levels"]) -> Tensor:
    """Index of the nearest level; a tie goes to the lower one."""
    middles = (levels[1:] + levels[:-1]) / 2
    if len(middles) < _FEW_LEVELS and values.device.type == "cpu":
        return _count_above(values, middles)
    return torch.bucketize(values, middles, out_int32=True)


def _count_above(values: Tensor, middles: Tensor) -> Tensor:
    """How many of the middles each value is above: twice as fast as a search if they are few."""
    flat = values.reshape(-1)
    counts = torch.empty(flat.shape, dtype=torch.int32)
    some = min(_IN_CACHE, len(flat))
    buffers = torch.empty(some, dtype=torch.bool), torch.empty(some, dtype=torch.uint8)
    for start in range(0, len(flat), _IN_CACHE):
        part = flat[start : start + _IN_CACHE]
        above, count = (buffer[: len(part)] for buffer in buffers)
        count.zero_()
        for middle in middles.tolist():
            torch.gt(part, middle, out=above)
            count.add_(above.view(torch.uint8))
        counts[start : start + _IN_CACHE] = count
    return counts.view(values.shape)


def divide(blocks: Blocks, scale: Scales) -> Blocks:
    """Weights divided by their scale; a zero scale gives zeros."""
    return blocks / torch.where(scale == 0, 1.0, scale)[..., None]


def _error(blocks: Blocks, levels: Tensor, scale: Scales) -> Scales:
    decoded = levels[nearest(divide(blocks, scale), levels)] * scale[..., None]
    return (blocks - decoded).square().sum(-1)


def _search(blocks: Blocks, levels: Tensor) -> Scales:
    """The scale with the least squared error among 64 fractions of absmax, absmax included."""
    full = blocks.abs().amax(-1)
    best, least = full, _error(blocks, levels, full)
    for step in range(1, _SEARCH):
        scale = full * (1 - 0.9 * step / _SEARCH)
        error = _error(blocks, levels, scale)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def _least_squares(blocks: Blocks, levels: Tensor) -> Scales:
    """Alternate between the nearest codes and their least-squares scale (Lloyd's iteration).

    Starts from the mean absolute weight for three levels, else from the largest.
    """
    size = blocks.abs()
    scale = size.mean(-1) if len(levels) == 3 else size.amax(-1)
    best, least = scale, _error(blocks, levels, scale)
    for _ in range(_ROUNDS):
        values = levels[nearest(divide(blocks, scale), levels)]
        power = values.square().sum(-1)
        least_squares = (blocks * values).sum(-1) / torch.where(power == 0, 1.0, power)
        scale = torch.where(least_squares > 0, least_squares, scale)
        error = _error(blocks, levels, scale)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def to_half(scale: Tensor) -> Tensor:
    """Round to fp16. Only a zero scale becomes zero, and none becomes infinite."""
    finite = scale.clamp(max=LARGEST)
    return torch.where(finite > 0, finite.clamp(min=SMALLEST), finite).to(torch.float16)
