"""What to quantise to: every group of weights becomes {-1, 0, +1} times a scale of its own.

The published formula is round(clamp(w / mean|w|, -1, 1)): the scale is the mean size of the group's
weights, and what is smaller than half of it becomes zero. Both are dials here. Scales are rounded
to 16 bits at once, because that is how they will be stored: what is trained is what is kept.
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
    """Groups of weights along a row, the rule for their scale, and what share of it is zero.

    `learned` starts as absmean and is then trained; `lsq` is the least-squares scale of the codes.
    """

    group: Group = 128
    rule: Rule = "absmean"
    threshold: float = 0.5

    def width(self, columns: int) -> int:
        """Weights a group, for a matrix of so many columns (a tensor's group is a row of it)."""
        return columns if isinstance(self.group, str) else min(self.group, columns)


def blocks(weight: Float[Tensor, "rows columns"], grid: Grid) -> Float[Tensor, "rows groups size"]:
    """A view where groups fit, else a copy padded with zeros."""
    rows, columns = weight.shape
    if grid.group == "tensor":
        return weight.reshape(1, 1, -1)
    size = grid.width(columns)
    padded = weight if columns % size == 0 else F.pad(weight, (0, -columns % size))
    return padded.view(rows, -1, size)


def unblocked(block: Tensor, shape: tuple[int, int], grid: Grid) -> Float[Tensor, "rows columns"]:
    """Back to a matrix, padding dropped."""
    if grid.group == "tensor":
        return block.view(shape)
    return block.reshape(shape[0], -1)[:, : shape[1]]


def counts(shape: tuple[int, int], grid: Grid) -> Tensor:
    """Real weights of each group: (1, groups, 1); the last one may be short."""
    columns = shape[1]
    if grid.group == "tensor":
        return torch.full((1, 1, 1), float(shape[0] * columns))
    size = grid.width(columns)
    whole, rest = divmod(columns, size)
    return torch.tensor([float(size)] * whole + [float(rest)] * bool(rest)).view(1, -1, 1)


def rounded(scale: Tensor) -> Tensor:
    """As 16 bits keep it, never zero."""
    return scale.clamp(min=TINY, max=65504.0).to(torch.float16).float()


def size_scale(block: Tensor, count: Tensor, rule: Rule) -> Tensor:
    """(rows, groups, 1): what the threshold is a share of."""
    if rule == "absmax":
        return block.abs().amax(-1, keepdim=True)
    return block.abs().sum(-1, keepdim=True) / count


def codes_of(block: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """-1, 0 or +1 in the block's own type; at the threshold itself: zero."""
    return block.sign() * (block.abs() > grid.threshold * scale)


def fitted(block: Tensor, codes: Tensor) -> Tensor:
    """The scale with the least squared error for these codes: the mean size of what is not zero."""
    kept = codes.abs()
    return (block.abs() * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1)


def ternarised(
    weight: Float[Tensor, "rows columns"], grid: Grid, learned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(codes, scales): blocks of -1, 0, +1, and (rows, groups, 1) as 16 bits keep them."""
    block = blocks(weight, grid)
    if learned is not None:
        scale = rounded(learned.detach())
        return codes_of(block, scale, grid), scale
    scale = size_scale(block, counts((weight.shape[0], weight.shape[1]), grid).to(block), grid.rule)
    codes = codes_of(block, scale, grid)
    if grid.rule == "lsq":
        scale = fitted(block, codes)
    return codes, rounded(scale)
