"""The exact plan under a budget: one choice a site, least predicted damage, bytes within bounds.

What another choice of the same site beats in cost and in every kind of bytes is dropped first; what
merely lies above the hull is kept, because exact plans use such choices. Then goes what no plan as
good as the best one known can have: at any price a byte, every choice adds so much to the least
that any plan costs. What stays is solved as an integer program, and again when that found a better
plan, which drops more. The gap is measured against a bound that is proved. No torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import inf

from lowbit.core.errors import UserError
from lowbit.planner.knapsack import Choices, Option, Solution, lowest, solved

PRECISION = 1e-6
"""Of what a plan costs above the least of every site: as near to the best as it is searched for."""
ROUNDS = 20


def undominated(options: Sequence[Option]) -> tuple[Option, ...]:
    """Those that no other beats: cheaper or equal in everything and not the same in all."""
    kept: list[Option] = []
    ordered = sorted(options, key=lambda o: (o.cost, o.stored, o.training, o.format, o.rank))
    for option in ordered:
        if not any(k.stored <= option.stored and k.training <= option.training for k in kept):
            kept.append(option)
    return tuple(kept)


def solve(choices: Choices, stored: int, training: int | None = None) -> Solution:
    """The plan with the least cost whose bytes fit, to the byte."""
    sites = {site: undominated(options) for site, options in choices.items()}
    _check(sites, stored, training)
    corners = [corner for corner in frontier(sites) if corner.fits(stored, training)]
    if corners:
        best, bound = min(corners, key=lambda c: c.cost), -inf
    else:
        best = _kept_to(sites, stored, training, PRECISION)
        bound = best.bound
    for _ in range(ROUNDS):
        kept, least = _possible(sites, stored, best.cost)
        bound, near = max(bound, least), PRECISION * (best.cost - lowest(sites))
        if best.cost - bound <= near:
            break
        # Twice as fine, since what is found and its bound may each be off by so much.
        share = min(0.5, near / 2 / (best.cost - lowest(kept)))
        found = _kept_to(kept, stored, training, share)
        bound = max(bound, min(found.bound, best.cost))  # what was dropped costs no less
        if found.cost >= best.cost:
            break
        best = found
    return Solution(best.options, min(bound, best.cost))


def _possible(sites: Choices, stored: int, known: float) -> tuple[Choices, float]:
    """The options that a plan no dearer than a known one may have, and the least that any costs.

    At any price a byte a plan that fits costs at least what every site's cheapest option costs with
    its bytes paid for, less the price of the budget (Lagrange).
    """
    least = -inf
    for price in (0.0, _price(sites, stored)):
        cheapest = {s: min(_paid(o, price) for o in options) for s, options in sites.items()}
        floor = sum(cheapest.values()) - price * stored
        room = known - floor + 1e-9 * (abs(known) + price * stored)
        sites = {
            site: [o for o in options if _paid(o, price) - cheapest[site] <= room]
            for site, options in sites.items()
        }
        least = max(least, floor)
    return sites, max(least, lowest(sites))


def _paid(option: Option, price: float) -> float:
    return option.cost + price * option.stored


def _price(sites: Choices, stored: int) -> float:
    """Nats a byte where the convex frontier meets the budget."""
    size = sum(min(o.stored for o in options) for options in sites.values())
    for slope, *_, more in _steps({site: _hull(options) for site, options in sites.items()}):
        size += more
        if size > stored:
            return -slope
    return 0.0


def _kept_to(sites: Choices, stored: int, training: int | None, share: float) -> Solution:
    """A plan that is over by what the solver allows itself is solved again with that much less
    room; the bound of the first, which had more, holds for all."""
    found = solved(sites, stored, training, share)
    bound, less, lean = found.bound, 0, 0
    for _ in range(ROUNDS):
        over = found.stored - stored
        more = 0 if training is None else found.training - training
        if over <= 0 and more <= 0:
            return Solution(found.options, min(bound, found.cost))
        less, lean = less + max(over, 0), lean + max(more, 0)
        limit = None if training is None else training - lean
        found = solved(sites, stored - less, limit, share)
    raise UserError("no plan was found that keeps to the budget exactly; try one a little larger")


def _check(sites: Choices, stored: int, training: int | None) -> None:
    """A budget below the smallest plan says what the smallest is."""
    least = sum(min(o.stored for o in options) for options in sites.values())
    if least > stored:
        raise UserError(f"a budget of {stored:,} bytes: the smallest plan has {least:,}")
    if training is not None:
        least = sum(min(o.training for o in options) for options in sites.values())
        if least > training:
            raise UserError(f"{training:,} bytes in training: the smallest plan takes {least:,}")


def frontier(choices: Choices) -> list[Solution]:
    """The corners of the convex frontier, from the smallest plan to the cheapest in cost.

    Each is optimal for its own bytes; between two of them `solve` finds what the corners pass over.
    """
    sites = {site: _hull(undominated(options)) for site, options in choices.items()}
    place = dict.fromkeys(sites, 0)
    found = [_taken(sites, place)]
    for _, i, site, _ in _steps(sites):
        place[site] = i + 1
        found.append(_taken(sites, place))
    return found


def _steps(hulls: Mapping[str, Sequence[Option]]) -> list[tuple[float, int, str, int]]:
    """From option to option of every site, the steepest first: slope, place, site, bytes."""
    return sorted(
        ((two.cost - one.cost) / (two.stored - one.stored), i, site, two.stored - one.stored)
        for site, options in hulls.items()
        for i, (one, two) in enumerate(itertools.pairwise(options))
    )


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
