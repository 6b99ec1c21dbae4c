"""Ternary layers and matrices for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from lowbit.core.spec import Group
from lowbit.layers.ternary.grid import Grid, Rule
from lowbit.layers.ternary.linear import Recovery, TernaryLinear

GROUPS: tuple[Group, ...] = (32, 64, 128, 256, "row", "tensor")

RULES: tuple[Rule, ...] = ("absmean", "absmax", "lsq", "learned")


def matrix(rows: int = 6, columns: int = 200, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def layer(grid: Grid, recovery: Recovery | None = None, strength: float = 1.0) -> TernaryLinear:
    made = TernaryLinear(matrix(), None, grid, recovery)
    made.strength = strength
    return made
