"""What a planner's frontier says in a few numbers, all by predicted cost. No torch.

The frontier lists stored bytes and cost, from the smallest plan to the largest. Between two of its
points the smaller one is the best known plan.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

Points = Sequence[tuple[int, float]]
"""Stored bytes and cost in nats."""

STEP = 0.03
"""A little more or less: this share of the plan's bytes."""


@dataclass(frozen=True)
class BudgetChange:
    """Another plan on the frontier: its bytes and nats above those of the chosen plan."""

    bytes: int
    nats: float


@dataclass(frozen=True)
class BytesSaved:
    """Shares of bytes that the frontier saves at the cost of uniform plans."""

    median: float
    low: float
    high: float
    compared: int


def cost_at(frontier: Points, size: int) -> float | None:
    """The lowest cost of a plan of at most `size` bytes; None if none is that small."""
    points = sorted(frontier)
    i = bisect_right(points, (size, float("inf")))
    return min((cost for _, cost in points[:i]), default=None)


def nearby(frontier: Points, size: int) -> list[BudgetChange]:
    """The best plans with a few per cent fewer and more bytes than `size`."""
    here = cost_at(frontier, size)
    changes = []
    for target in (round(size * (1 - STEP)), round(size * (1 + STEP))):
        cost = cost_at(frontier, target)
        if here is not None and cost is not None and cost != here:
            changes.append(BudgetChange(target - size, cost - here))
    return changes


def bytes_saved(frontier: Points, uniform: Points) -> BytesSaved | None:
    """The bytes that the frontier saves at the cost of each uniform plan that none beats."""
    best: list[tuple[int, float]] = []
    for size, cost in sorted(uniform):
        if not best or cost < best[-1][1]:
            best.append((size, cost))
    shares = []
    for size, cost in best:
        smallest = min((s for s, c in frontier if c <= cost), default=None)
        if smallest is not None:
            shares.append(1 - smallest / size)
    if not shares:
        return None
    return BytesSaved(median(shares), min(shares), max(shares), len(shares))
