"""The chosen plan under a budget, its competitors and its predictions. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lowbit.core.spec import Plan
from lowbit.planner.knapsack import Solution
from lowbit.planner.remeasure import Round
from lowbit.planner.request import PlanRequest
from lowbit.sensitivity.predictors import Prediction
from lowbit.sensitivity.table import Basis, OutputChange


@dataclass(frozen=True)
class Candidate:
    """A plan, its predicted cost, and its measured damage on text that no cost was predicted from.

    `change`: what storing it does to the outputs on that text. `remaining`: nats expected after
    training, above 16 bits at the largest rank, from `change` and the effect predicted for its
    ranks.
    """

    plan: Plan
    solution: Solution
    change: OutputChange
    remaining: float


@dataclass(frozen=True)
class BudgetPlan:
    """The candidates for a budget, best first, and what is known about the best one.

    `other`: stored bytes outside all sites; `overhead`: bytes in training that no choice changes.
    `fits_in_full`: True if even 16 bits with the largest ranks fits the budget. `predictions`: of
    the best plan, all sites stored at once. `converse`: the second-order damage that no code of the
    best plan's bytes can avoid; `kfac_damage`: the best plan's own damage by the same measure.
    `frontier` and `uniform`: stored bytes and predicted cost, for the figure.
    """

    request: PlanRequest
    candidates: tuple[Candidate, ...]
    other: int
    fits_in_full: bool
    predictions: Mapping[str, Prediction]
    converse: float
    kfac_damage: float
    frontier: tuple[tuple[int, float], ...]
    uniform: tuple[tuple[str, int, float], ...]
    basis: Basis
    controls: tuple[tuple[Plan, Solution], ...] = ()
    overhead: int = 0
    rounds: tuple[Round, ...] = ()
    """The solutions that were run on the calibration text, in the order of solving."""
    grid: str | None = None
    """The format whose grid the checkpoint's weights lie on already; it was among the choices."""
