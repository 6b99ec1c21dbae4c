"""The knapsack as a mixed-integer program: one option a site, least cost, bytes within limits.

The solver (HiGHS) stops once it is within an absolute tolerance of the best and then calls what it
has the bound, whatever costs are counted in. So costs are given from every site's least upwards and
scaled by the largest that is left, and as much as the answer may be off is taken from its bound.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from lowbit.core.errors import UserError

SLACK = 1e-6
"""How far from the best the solver may stop, whatever it is asked for."""
RANGE = 4.0
"""The largest cost that it is given."""
SECONDS = 60.0
TIMED_OUT = 1
"""What scipy calls it when its time is over."""


@dataclass(frozen=True)
class Option:
    """One way to store and adapt a site: cost in nats, bytes at rest and in training.

    Of the cost: `damage` before training, and `lack`, what a larger rank would win.
    """

    site: str
    format: str
    rank: int
    cost: float
    stored: int
    training: int = 0
    damage: float = 0.0
    lack: float = 0.0


@dataclass(frozen=True)
class Solution:
    """One option a site, in the order of the sites. `bound`: no plan can cost less."""

    options: tuple[Option, ...]
    bound: float

    @property
    def cost(self) -> float:
        return sum(option.cost for option in self.options)

    @property
    def stored(self) -> int:
        return sum(option.stored for option in self.options)

    @property
    def training(self) -> int:
        return sum(option.training for option in self.options)

    def fits(self, stored: int, training: int | None = None) -> bool:
        """Whether its bytes keep to both limits."""
        return self.stored <= stored and (training is None or self.training <= training)

    @property
    def gap(self) -> float:
        """How far from the best this may still be, in nats."""
        return max(0.0, self.cost - self.bound)


Choices = Mapping[str, Sequence[Option]]


def lowest(sites: Choices) -> float:
    """What every site's cheapest option costs, whatever its bytes."""
    return sum(min(o.cost for o in options) for options in sites.values())


def solved(sites: Choices, stored: int, training: int | None, share: float) -> Solution:
    """To within a share of what its options cost above the least of every site. The solver keeps to
    the limits within its tolerance."""
    flat = [option for options in sites.values() for option in options]
    above = np.concatenate(
        [np.array([o.cost for o in each]) - min(o.cost for o in each) for each in sites.values()]
    )
    unit = float(above.max()) / RANGE or 1.0
    limits = [_row([o.stored for o in flat], stored)]
    limits += [] if training is None else [_row([o.training for o in flat], training)]
    with _quietly():
        found = milp(
            above / unit,
            constraints=[_one_each(sites), *limits],
            integrality=np.ones(len(flat)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": share, "time_limit": SECONDS},
        )
    if found.x is None and found.status == TIMED_OUT:
        raise UserError(
            f"no plan was found in {SECONDS:.0f} seconds; fewer formats or ranks, or a budget a "
            "little larger, are easier"
        )
    if found.x is None:
        raise UserError("no plan fits both budgets: the bytes in training and at rest exclude it")
    chosen = tuple(option for option, x in zip(flat, found.x, strict=True) if x > 0.5)
    off = max(SLACK, share * float(found.fun))
    return Solution(chosen, (float(found.mip_dual_bound) - off) * unit + lowest(sites))


def _row(values: Sequence[int], limit: int) -> LinearConstraint:
    scale = max(1, limit)
    return LinearConstraint(np.array(values, float)[None] / scale, -np.inf, limit / scale)


def _one_each(sites: Choices) -> LinearConstraint:
    counts = [len(options) for options in sites.values()]
    rows = np.repeat(np.arange(len(counts)), counts)
    matrix = csr_array((np.ones(sum(counts)), (rows, np.arange(sum(counts)))))
    return LinearConstraint(matrix, 1, 1)


@contextmanager
def _quietly() -> Iterator[None]:
    """HiGHS prints a line of its own where it mends a plan, whatever it is told."""
    with suppress(OSError, ValueError):  # a closed output needs no silence
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
