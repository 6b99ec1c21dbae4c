"""A measured model for tests: a tiny checkpoint with a few rows of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers.models import batch_of, opened, some_ids
from torch import Tensor

from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.site_curvature import Factors
from lowbit.curvature.walk_curvature import walk_curvature
from lowbit.sensitivity.table import MeasureRequest

Folder = Callable[[str], Path]

REQUEST = MeasureRequest(("int8@16", "int4@16", "int2@16"), ranks=(1, 4, 16), samples=3, walk=True)


def tiny_measured(folder: Path) -> MeasuredModel:
    start = opened(folder, "language")
    ids = some_ids(3, 13)
    batches = [batch_of(row[None, :-1], row[None, 1:]) for row in ids]
    return MeasuredModel(start.model().float().eval(), start.sites, batches)


@dataclass(frozen=True)
class AllCurvature:
    """The curvature of all sites at once, as only a small model can hold it."""

    units: int
    gradient: dict[str, Tensor]
    fisher: dict[str, Tensor]
    factors: dict[str, Factors]
    halves: dict[str, tuple[Tensor, Tensor] | None]


def all_curvature(model: MeasuredModel, seed: int = 0) -> AllCurvature:
    walked = {site.name: curved for site, curved in walk_curvature(model, seed)}
    return AllCurvature(
        sum(model.counts),
        {name: curved.gradient for name, curved in walked.items()},
        {name: curved.fisher for name, curved in walked.items()},
        {name: curved.factors for name, curved in walked.items()},
        {name: curved.halves for name, curved in walked.items()},
    )
