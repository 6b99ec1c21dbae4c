"""Rounding to three values: each group of weights becomes {-1, 0, +1} times its own scale.

The published formula (BitNet b1.58) is round(clamp(w / mean|w|, -1, 1)): the scale is the group's
mean absolute weight, and weights below half of it become zero. Here both the scale rule and the
threshold can be set. Scales are rounded to 16 bits at once, because they are stored that way:
training then uses exactly the stored values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from lowbit.core.spec import Group

Rule = Literal["absmean", "absmax", "lsq", "learned"]
TINY = 6e-8
"""The least scale: fp16's smallest number above zero."""


@dataclass(frozen=True)
class Grid:
    """The group size along a row, the scale rule, and the threshold as a share of the scale.

    `learned` starts as absmean and is then trained; `lsq` is the least-squares scale of the codes.
    """

    group: Group = 128
    rule: Rule = "absmean"
    threshold: float = 0.5

    def width(self, columns: int) -> int:
        """Weights per group in a row of `columns` weights."""
        return columns if isinstance(self.group, str) else min(self.group, columns)


def blocks(weight: Float[Tensor, "rows columns"], grid: Grid) -> Float[Tensor, "rows groups size"]:
    """The weight in groups: a view if the groups fit, else a copy padded with zeros."""
    rows, columns = weight.shape
    if grid.group == "tensor":
        return weight.reshape(1, 1, -1)
    size = grid.width(columns)
    padded = weight if columns % size == 0 else F.pad(weight, (0, -columns % size))
    return padded.view(rows, -1, size)


def join_blocks(block: Tensor, shape: tuple[int, int], grid: Grid) -> Float[Tensor, "rows columns"]:
    """The inverse of `blocks`: a matrix without the padding."""
    if grid.group == "tensor":
        return block.view(shape)
    return block.reshape(shape[0], -1)[:, : shape[1]]


def group_sizes(shape: tuple[int, int], grid: Grid) -> Tensor:
    """Weights of each group without padding, (1, groups, 1); the last group may be short."""
    columns = shape[1]
    if grid.group == "tensor":
        return torch.full((1, 1, 1), float(shape[0] * columns))
    size = grid.width(columns)
    whole, rest = divmod(columns, size)
    return torch.tensor([float(size)] * whole + [float(rest)] * bool(rest)).view(1, -1, 1)


def stored_scale(scale: Tensor) -> Tensor:
    """The scale rounded to fp16 as it is stored, and never zero."""
    return scale.clamp(min=TINY, max=65504.0).to(torch.float16).float()


def size_scale(block: Tensor, count: Tensor, rule: Rule) -> Tensor:
    """The scale that the threshold multiplies, (rows, groups, 1)."""
    if rule == "absmax":
        return block.abs().amax(-1, keepdim=True)
    return block.abs().sum(-1, keepdim=True) / count


def codes_of(block: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """-1, 0 or +1 in the block's type; a weight exactly at the threshold becomes zero."""
    return block.sign() * (block.abs() > grid.threshold * scale)


def least_squares_scale(block: Tensor, codes: Tensor) -> Tensor:
    """The scale with the least squared error: the mean absolute weight where codes are not zero."""
    nonzero = codes.abs()
    count = nonzero.sum(-1, keepdim=True).clamp(min=1)
    return (block.abs() * nonzero).sum(-1, keepdim=True) / count


def ternarise(
    weight: Float[Tensor, "rows columns"], grid: Grid, learned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(codes, scales): blocks of -1, 0, +1, and scales (rows, groups, 1) rounded to fp16."""
    block = blocks(weight, grid)
    if learned is not None:
        scale = stored_scale(learned.detach())
        return codes_of(block, scale, grid), scale
    scale = size_scale(
        block, group_sizes((weight.shape[0], weight.shape[1]), grid).to(block), grid.rule
    )
    codes = codes_of(block, scale, grid)
    if grid.rule == "lsq":
        scale = least_squares_scale(block, codes)
    return codes, stored_scale(scale)
