"""Stored matrices, inputs and gradients for the tests of the layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.models import batch_of as flat_batch
from helpers.models import some_ids
from torch import Tensor

from lowbit.core.spec import Plan, Rule
from lowbit.models.skeleton import Kind
from lowbit.quant.codec import Packed, encode
from lowbit.quant.formats import CASTS, FORMATS, parse
from lowbit.tasks.base import Batch

Folder = Callable[[str], Path]

# Every format there is, in groups whose last is short, alone and with everything it may have.
STRINGS = [
    *CASTS,
    *(f"{name}@16" for name in FORMATS),
    *(f"{name}@tensor" for name in ("int2", "nf4", "ternary", "int5")),
    *(f"{name}@row" for name in ("int8", "int3", "ternary")),
    *("nf4@16+dq", "int3@16+dq", "ternary@16+dq", "int4@row+dq"),
    *("int4@16:zp", "int4@16:min", "int2@16:zp+dq", "int8@tensor:min", "int5@16:full:mse"),
]

every_format = pytest.mark.parametrize("text", STRINGS)

ROWS, COLUMNS = 24, 44

MIXED = Plan(
    "mixed", "nf4@16+dq", embedding="int4@row", rank=3, rule=(Rule(role="ffn", format="int3@16"),)
)

FAMILIES: tuple[tuple[str, Kind], ...] = (
    ("llama", "language"),
    ("gpt2", "language"),
    ("bert", "classification"),
)

every_family = pytest.mark.parametrize(("name", "kind"), FAMILIES, ids=lambda v: str(v))


def packed(text: str) -> Packed:
    source = torch.Generator().manual_seed(1)
    return encode(0.1 * torch.randn(ROWS, COLUMNS, generator=source), parse(text))


def given(dtype: torch.dtype, *shape: int) -> Tensor:
    source = torch.Generator().manual_seed(2)
    return torch.randn(*shape, COLUMNS, generator=source).to(dtype).requires_grad_()


def batch_of(kind: Kind) -> Batch:
    ids = some_ids()
    target = torch.tensor([0, 1, 1]) if kind == "classification" else ids.roll(-1, 1)
    return flat_batch(ids, target)


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)
