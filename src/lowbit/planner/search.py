"""The exact plan under a budget: one option per site, least predicted damage, bytes within limits.

The search has four steps. No torch.

1. Drop every option that another option of the same site beats in cost and in both kinds of bytes.
   Options above the convex hull stay, because exact plans use them.
2. Take the best corner of the convex frontier that fits as a first plan.
3. Drop every option that no plan as good as the first one can use: at any price per byte, each
   option adds at least so much to the lower bound of the cost (Lagrange relaxation).
4. Solve the rest as an integer program; if that gives a better plan, repeat from step 3.

The reported gap is measured against a proven lower bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import inf

from lowbit.core.errors import UserError
from lowbit.planner.knapsack import Choices, Option, Solution, least_cost, solve_program

PRECISION = 1e-6
"""How near to the optimum the search ends, as a share of the plan's cost above `least_cost`."""
ROUNDS = 20


def undominated(options: Sequence[Option]) -> tuple[Option, ...]:
    """The options that no other option beats or equals in cost and in both kinds of bytes."""
    best: list[Option] = []
    ordered = sorted(options, key=lambda o: (o.cost, o.stored, o.training, o.format, o.rank))
    for option in ordered:
        if not any(b.stored <= option.stored and b.training <= option.training for b in best):
            best.append(option)
    return tuple(best)


def solve(choices: Choices, stored: int, training: int | None = None) -> Solution:
    """The cheapest plan whose bytes are within the limits, to the byte."""
    sites = {site: undominated(options) for site, options in choices.items()}
    _check(sites, stored, training)
    corners = [corner for corner in frontier(sites) if corner.fits(stored, training)]
    if corners:
        best, bound = min(corners, key=lambda c: c.cost), -inf
    else:
        best = _solve_within(sites, stored, training, PRECISION)
        bound = best.bound
    for _ in range(ROUNDS):
        usable, least = _usable(sites, stored, best.cost)
        bound, near = max(bound, least), PRECISION * (best.cost - least_cost(sites))
        if best.cost - bound <= near:
            break
        # Twice as fine, because the solution and its bound may each be off by this much.
        share = min(0.5, near / 2 / (best.cost - least_cost(usable)))
        solution = _solve_within(usable, stored, training, share)
        bound = max(bound, min(solution.bound, best.cost))  # the dropped options cost no less
        if solution.cost >= best.cost:
            break
        best = solution
    return Solution(best.options, min(bound, best.cost))


def _usable(sites: Choices, stored: int, cost: float) -> tuple[Choices, float]:
    """The options that a plan of at most this cost can use, and a lower bound of every plan.

    At any price per byte, a plan that fits costs at least the sum of every site's cheapest option
    including the price of its bytes, minus the price of the budget (Lagrange).
    """
    least = -inf
    for price in (0.0, _price(sites, stored)):
        cheapest = {s: min(_priced(o, price) for o in options) for s, options in sites.items()}
        floor = sum(cheapest.values()) - price * stored
        allowance = cost - floor + 1e-9 * (abs(cost) + price * stored)
        sites = {
            site: [o for o in options if _priced(o, price) - cheapest[site] <= allowance]
            for site, options in sites.items()
        }
        least = max(least, floor)
    return sites, max(least, least_cost(sites))


def _priced(option: Option, price: float) -> float:
    return option.cost + price * option.stored


def _price(sites: Choices, stored: int) -> float:
    """Nats per byte where the convex frontier meets the budget."""
    size = sum(min(o.stored for o in options) for options in sites.values())
    for slope, *_, more in _steps({site: _hull(options) for site, options in sites.items()}):
        size += more
        if size > stored:
            return -slope
    return 0.0


def _solve_within(sites: Choices, stored: int, training: int | None, share: float) -> Solution:
    """A solution that keeps the limits to the byte.

    The solver may exceed a limit within its tolerance. Then the program is solved again with the
    limit lowered by the excess; the first bound, of the looser limit, holds for all of them.
    """
    solution = solve_program(sites, stored, training, share)
    bound, less_stored, less_training = solution.bound, 0, 0
    for _ in range(ROUNDS):
        over = solution.stored - stored
        over_training = 0 if training is None else solution.training - training
        if over <= 0 and over_training <= 0:
            return Solution(solution.options, min(bound, solution.cost))
        less_stored += max(over, 0)
        less_training += max(over_training, 0)
        limit = None if training is None else training - less_training
        solution = solve_program(sites, stored - less_stored, limit, share)
    raise UserError("no plan was found that fits the budget exactly; try a slightly larger one")


def _check(sites: Choices, stored: int, training: int | None) -> None:
    """Reject a budget below the smallest plan, and name the smallest plan's size."""
    least = sum(min(o.stored for o in options) for options in sites.values())
    if least > stored:
        raise UserError(f"a budget of {stored:,} bytes: the smallest plan has {least:,}")
    if training is not None:
        least = sum(min(o.training for o in options) for options in sites.values())
        if least > training:
            raise UserError(f"{training:,} bytes in training: the smallest plan takes {least:,}")


def frontier(choices: Choices) -> list[Solution]:
    """The corners of the convex frontier, from the smallest plan to the cheapest in cost.

    Each corner is optimal for its own bytes. `solve` also finds the plans between two corners.
    """
    sites = {site: _hull(undominated(options)) for site, options in choices.items()}
    places = dict.fromkeys(sites, 0)
    corners = [_corner(sites, places)]
    for _, i, site, _ in _steps(sites):
        places[site] = i + 1
        corners.append(_corner(sites, places))
    return corners


def _steps(hulls: Mapping[str, Sequence[Option]]) -> list[tuple[float, int, str, int]]:
    """The steps between neighbouring options of every site, steepest first: slope, index, site,
    bytes."""
    return sorted(
        (_slope(a, b), i, site, b.stored - a.stored)
        for site, options in hulls.items()
        for i, (a, b) in enumerate(itertools.pairwise(options))
    )


def _corner(sites: Mapping[str, Sequence[Option]], places: Mapping[str, int]) -> Solution:
    options = tuple(sites[site][i] for site, i in places.items())
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


def _slope(smaller: Option, larger: Option) -> float:
    return (larger.cost - smaller.cost) / (larger.stored - smaller.stored)
