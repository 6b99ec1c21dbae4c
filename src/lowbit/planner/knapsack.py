"""The knapsack as a mixed-integer program: one option per site, least cost, bytes within limits.

The solver (HiGHS) stops when it is within an absolute tolerance of the optimum, and then reports
its own solution as the bound, whatever the unit of cost. We therefore subtract each site's smallest
cost, scale costs to a fixed range, and lower the reported bound by the solver's tolerance.
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

TOLERANCE = 1e-6
"""How far from the optimum the solver may stop, whatever precision is requested."""
RANGE = 4.0
"""The largest cost that the solver gets, after scaling."""
SECONDS = 60.0
TIMED_OUT = 1
"""The status that scipy reports when the time limit is reached."""


@dataclass(frozen=True)
class Option:
    """One way to store and adapt a site: cost in nats, bytes stored and bytes in training.

    The cost has two parts: what remains of `damage` (the damage before training), and
    `missed_gain`, which the largest measured rank would gain in addition.
    """

    site: str
    format: str
    rank: int
    cost: float
    stored: int
    training: int = 0
    damage: float = 0.0
    missed_gain: float = 0.0


@dataclass(frozen=True)
class Solution:
    """One option per site, in the order of the sites. `bound`: no plan can cost less."""

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
        """Whether the plan is within both limits (None: no limit)."""
        return self.stored <= stored and (training is None or self.training <= training)

    @property
    def gap(self) -> float:
        """An upper bound on the distance to the optimum, in nats."""
        return max(0.0, self.cost - self.bound)


Choices = Mapping[str, Sequence[Option]]
"""The options of every site, by its name."""


def least_cost(sites: Choices) -> float:
    """The sum of every site's smallest cost, ignoring bytes."""
    return sum(min(o.cost for o in options) for options in sites.values())


def solve_program(sites: Choices, stored: int, training: int | None, share: float) -> Solution:
    """The best plan, up to `share` of its cost above `least_cost`.

    The solver keeps the limits only within its own tolerance.
    """
    flat = [option for options in sites.values() for option in options]
    above = np.concatenate(
        [np.array([o.cost for o in each]) - min(o.cost for o in each) for each in sites.values()]
    )
    unit = float(above.max()) / RANGE or 1.0
    limits = [_limit([o.stored for o in flat], stored)]
    limits += [] if training is None else [_limit([o.training for o in flat], training)]
    with _silenced():
        outcome = milp(
            above / unit,
            constraints=[_one_per_site(sites), *limits],
            integrality=np.ones(len(flat)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": share, "time_limit": SECONDS},
        )
    if outcome.x is None and outcome.status == TIMED_OUT:
        raise UserError(
            f"the solver found no plan in {SECONDS:.0f} seconds; allow fewer formats or ranks, or "
            "a slightly larger budget"
        )
    if outcome.x is None:
        raise UserError("no plan fits both budgets, the bytes stored and the bytes in training")
    chosen = tuple(option for option, x in zip(flat, outcome.x, strict=True) if x > 0.5)
    off = max(TOLERANCE, share * float(outcome.fun))
    return Solution(chosen, (float(outcome.mip_dual_bound) - off) * unit + least_cost(sites))


def _limit(values: Sequence[int], limit: int) -> LinearConstraint:
    scale = max(1, limit)
    return LinearConstraint(np.array(values, float)[None] / scale, -np.inf, limit / scale)


def _one_per_site(sites: Choices) -> LinearConstraint:
    counts = [len(options) for options in sites.values()]
    rows = np.repeat(np.arange(len(counts)), counts)
    matrix = csr_array((np.ones(sum(counts)), (rows, np.arange(sum(counts)))))
    return LinearConstraint(matrix, 1, 1)


@contextmanager
def _silenced() -> Iterator[None]:
    """HiGHS prints a line when it repairs a solution, even with its output switched off."""
    with suppress(OSError, ValueError):  # a closed output needs no silencing
        sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)
