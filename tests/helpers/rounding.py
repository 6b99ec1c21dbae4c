"""Matrices and moments to round in tests."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.quant.formats import FORMATS

FORMATS_TRIED = (
    *FORMATS, "int4@16:min", "int4@16:steps", "int3@16:zp", "nf4@16+dq", "int4@row", "int2@tensor",
    "ternary@20:lsq", "int4@16:mse", "int3@16:min+dq",
)  # fmt: skip


def correlated(columns: int, seed: int, rank: int | None = None) -> Tensor:
    """The second moment of inputs of which some are large and many are correlated."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank or columns, columns, generator=generator)
    inputs = torch.randn(256, rank or columns, generator=generator) @ mixing
    inputs *= torch.rand(columns, generator=generator) * 2
    return inputs.t() @ inputs / len(inputs)


def weights(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
