"""A measured model for tests: a tiny checkpoint with a few rows of tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helpers.models import batch_of, opened, some_ids

from lowbit.sensitivity.measured_model import MeasuredModel
from lowbit.sensitivity.table import MeasureRequest

Folder = Callable[[str], Path]

REQUEST = MeasureRequest(("int8@16", "int4@16", "int2@16"), ranks=(1, 4, 16), samples=3, walk=True)


def tiny_measured(folder: Path) -> MeasuredModel:
    start = opened(folder, "language")
    ids = some_ids(3, 13)
    batches = [batch_of(row[None, :-1], row[None, 1:]) for row in ids]
    return MeasuredModel(start.model().float().eval(), start.sites, batches)
