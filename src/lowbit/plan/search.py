"""The exact plan under a budget: one choice a site, least predicted damage, bytes within bounds.

A multiple-choice knapsack, solved as a mixed-integer program (HiGHS). What another choice of the
same site beats in cost and in every kind of bytes is dropped first; what merely lies above the
hull is kept, because exact plans use such choices. The gap is measured against the bound that the
solver proves. No torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from lowbit.errors import UserError

PRECISION = 1e-6
"""Relative gap at which the search stops."""
SECONDS = 60.0
TIMED_OUT = 1
"""What scipy calls it when its time is over."""
ROUNDS = 20


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


def undominated(options: Sequence[Option]) -> tuple[Option, ...]:
    """Those that no other beats: cheaper or equal in everything and not the same in all."""
    kept: list[Option] = []
    ordered = sorted(options, key=lambda o: (o.cost, o.stored, o.training, o.format, o.rank))
    for option in ordered:
        if not any(k.stored <= option.stored and k.training <= option.training for k in kept):
            kept.append(option)
    return tuple(kept)


def solve(choices: Choices, stored: int, training: int | None = None) -> Solution:
    """The plan with the least cost whose bytes fit, to the byte.

    The solver keeps to a limit within a millionth of it. A plan that is over by so little is solved
    again with that much less room; the bound of the first, which had more, holds for all.
    """
    sites = {site: undominated(options) for site, options in choices.items()}
    _check(sites, stored, training)
    found = _solved(sites, stored, training)
    bound, less, lean = found.bound, 0, 0
    for _ in range(ROUNDS):
        over = found.stored - stored
        more = 0 if training is None else found.training - training
        if over <= 0 and more <= 0:
            return Solution(found.options, min(bound, found.cost))
        less, lean = less + max(over, 0), lean + max(more, 0)
        limit = None if training is None else training - lean
        found = _solved(sites, stored - less, limit)
    raise UserError("no plan was found that keeps to the budget exactly; try one a little larger")


def _solved(sites: Choices, stored: int, training: int | None) -> Solution:
    flat = [option for options in sites.values() for option in options]
    costs = np.array([option.cost for option in flat])
    # The solver's tolerances are absolute: costs and bytes are brought to the order of one.
    unit = float(np.abs(costs - costs.min()).max()) or 1.0
    limits = [_row([o.stored for o in flat], stored)]
    limits += [] if training is None else [_row([o.training for o in flat], training)]
    found = milp(
        (costs - costs.min()) / unit,
        constraints=[_one_each(sites), *limits],
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": PRECISION, "time_limit": SECONDS},
    )
    if found.x is None and found.status == TIMED_OUT:
        raise UserError(
            f"no plan was found in {SECONDS:.0f} seconds; fewer formats or ranks, or a budget a "
            "little larger, are easier"
        )
    if found.x is None:
        raise UserError("no plan fits both budgets: the bytes in training and at rest exclude it")
    chosen = tuple(option for option, x in zip(flat, found.x, strict=True) if x > 0.5)
    shift = costs.min() * len(sites)
    bound = float(found.mip_dual_bound) * unit + shift
    return Solution(chosen, bound)


def _check(sites: Choices, stored: int, training: int | None) -> None:
    """A budget below the smallest plan says what the smallest is."""
    least = sum(min(o.stored for o in options) for options in sites.values())
    if least > stored:
        raise UserError(f"a budget of {stored:,} bytes: the smallest plan has {least:,}")
    if training is not None:
        least = sum(min(o.training for o in options) for options in sites.values())
        if least > training:
            raise UserError(f"{training:,} bytes in training: the smallest plan takes {least:,}")


def _row(values: Sequence[int], limit: int) -> LinearConstraint:
    scale = max(1, limit)
    return LinearConstraint(np.array(values, float)[None] / scale, -np.inf, limit / scale)


def _one_each(sites: Choices) -> LinearConstraint:
    counts = [len(options) for options in sites.values()]
    rows = np.repeat(np.arange(len(counts)), counts)
    matrix = csr_array((np.ones(sum(counts)), (rows, np.arange(sum(counts)))))
    return LinearConstraint(matrix, 1, 1)


def frontier(choices: Choices) -> list[Solution]:
    """The corners of the convex frontier, from the smallest plan to the cheapest in cost.

    Each is optimal for its own bytes; between two of them `solve` finds what the corners pass over.
    """
    sites = {site: _hull(undominated(options)) for site, options in choices.items()}
    steps = [
        ((two.cost - one.cost) / (two.stored - one.stored), i, site)
        for site, options in sites.items()
        for i, (one, two) in enumerate(itertools.pairwise(options))
    ]
    place = dict.fromkeys(sites, 0)
    found = [_taken(sites, place)]
    for _, i, site in sorted(steps):
        place[site] = i + 1
        found.append(_taken(sites, place))
    return found


def _taken(sites: Mapping[str, Sequence[Option]], place: Mapping[str, int]) -> Solution:
    options = tuple(sites[site][i] for site, i in place.items())
    return Solution(options, sum(option.cost for option in options))


def _hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull over stored bytes, smallest first."""
    hull: list[Option] = []
    least = float("inf")
    for option in sorted(options, key=lambda o: (o.stored, o.cost)):
        if option.cost >= least:
            continue
        least = option.cost
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(one: Option, two: Option) -> float:
    return (two.cost - one.cost) / (two.stored - one.stored)
