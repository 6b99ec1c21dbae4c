"""What an exact plan is to be held against at the same bytes: simpler ways to spend them.

uniform          the uniform plan that came out best of those that fit
bits only        that plan's rank everywhere, bits chosen exactly
rank only        that plan's formats, ranks chosen exactly
bits then rank   bits chosen exactly at the least rank, then ranks with what is left
random N         blocks drawn matrix by matrix, then moved up or down at random until the bytes are
                 spent; embeddings and heads as in the uniform plan, if there is one
shuffled         the exact plan, its choices dealt anew among sites of the same shape

No torch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lowbit.planner.knapsack import Choices, Option, Solution
from lowbit.planner.search import solve, undominated

Controls = dict[str, Solution]


def controls(
    choices: Choices,
    planned: Solution,
    uniform: Solution | None,
    limits: tuple[int, int | None],
    draws: int,
    seed: int,
) -> Controls:
    """Every control that can be made within the limits, by its name."""
    found: Controls = {}
    drawn = {site: undominated(options) for site, options in choices.items()}
    if uniform is not None:
        found["uniform"] = uniform
        found["bits only"] = solve(_of_rank(choices, _usual_rank(uniform)), *limits)
        found["rank only"] = solve(_in_formats_of(choices, uniform), *limits)
        drawn |= {o.site: (o,) for o in uniform.options if not o.rank}
    found["bits then rank"] = _in_turn(choices, limits)
    source = random.Random(seed)
    for i in range(draws):
        found[f"random {i}"] = _random(drawn, limits, source)
    found["shuffled"] = _shuffled(choices, planned, source)
    return found


def _usual_rank(solution: Solution) -> int:
    return next((o.rank for o in solution.options if o.rank), 0)


def _of_rank(choices: Choices, rank: int) -> dict[str, list[Option]]:
    """Only options of a rank; a site that has none keeps all it has."""
    return {
        site: [o for o in options if not o.rank or o.rank == rank] or list(options)
        for site, options in choices.items()
    }


def _in_formats_of(choices: Choices, solution: Solution) -> dict[str, list[Option]]:
    """Every site in the format that a solution gives it: embeddings may have one of their own."""
    formats = {o.site: o.format for o in solution.options}
    return {
        site: [o for o in options if o.format == formats[site]] for site, options in choices.items()
    }


def _in_turn(choices: Choices, limits: tuple[int, int | None]) -> Solution:
    least = {site: min(o.rank for o in options) for site, options in choices.items()}
    first = solve(
        {site: [o for o in options if o.rank == least[site]] for site, options in choices.items()},
        *limits,
    )
    return solve(_in_formats_of(choices, first), *limits)


def _random(choices: Choices, limits: tuple[int, int | None], source: random.Random) -> Solution:
    """No bytes are left that any single step up could still use."""
    chosen = {site: source.choice(list(options)) for site, options in choices.items()}
    ladders = {site: sorted(options, key=lambda o: o.stored) for site, options in choices.items()}
    sites = list(choices)
    while not _solution(chosen).fits(*limits):
        site = source.choice(sites)
        place = ladders[site].index(chosen[site])
        chosen[site] = ladders[site][max(0, place - 1)]
    for site in source.sample(sites, len(sites)):
        for option in ladders[site][ladders[site].index(chosen[site]) + 1 :]:
            more = {**chosen, site: option}
            if _solution(more).fits(*limits):
                chosen = more
    return _solution(chosen)


def _solution(chosen: Mapping[str, Option]) -> Solution:
    return Solution(tuple(chosen.values()), float("-inf"))


def _shuffled(choices: Choices, planned: Solution, source: random.Random) -> Solution:
    """Sites that have the same options by bytes trade what they were given."""
    groups: dict[tuple[int, ...], list[Option]] = {}
    for option in planned.options:
        sizes = tuple(sorted(o.stored for o in choices[option.site]))
        groups.setdefault(sizes, []).append(option)
    dealt: dict[str, Option] = {}
    for mine in groups.values():
        given = source.sample(mine, len(mine))
        for option, other in zip(mine, given, strict=True):
            dealt[option.site] = _same(choices[option.site], other)
    return _solution({option.site: dealt[option.site] for option in planned.options})


def _same(options: Sequence[Option], like: Option) -> Option:
    """The option of a site that has another's format and rank."""
    found = next((o for o in options if (o.format, o.rank) == (like.format, like.rank)), None)
    return found if found is not None else replace(like, site=options[0].site)
