"""Simpler plans of the same size, to compare the exact plan with. No torch.

uniform          the best uniform plan that fits
bits only        that plan's rank everywhere, formats chosen exactly
rank only        that plan's formats, ranks chosen exactly
bits then rank   formats chosen exactly at the smallest rank, then ranks from the remaining bytes
random N         each block matrix drawn at random, then moved up or down at random until the bytes
                 are spent; embeddings and heads as in the uniform plan, if there is one
shuffled         the exact plan's choices, permuted among sites of the same shape
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
    """Every control plan within the limits, by its name."""
    plans: Controls = {}
    drawable = {site: undominated(options) for site, options in choices.items()}
    if uniform is not None:
        plans["uniform"] = uniform
        plans["bits only"] = solve(_of_rank(choices, _usual_rank(uniform)), *limits)
        plans["rank only"] = solve(_in_formats_of(choices, uniform), *limits)
        drawable |= {o.site: (o,) for o in uniform.options if not o.rank}
    plans["bits then rank"] = _bits_then_rank(choices, limits)
    source = random.Random(seed)
    for i in range(draws):
        plans[f"random {i}"] = _random(drawable, limits, source)
    plans["shuffled"] = _shuffled(choices, planned, source)
    return plans


def _usual_rank(solution: Solution) -> int:
    return next((o.rank for o in solution.options if o.rank), 0)


def _of_rank(choices: Choices, rank: int) -> dict[str, list[Option]]:
    """Only the options of one rank; a site without such an option keeps all of its options."""
    return {
        site: [o for o in options if not o.rank or o.rank == rank] or list(options)
        for site, options in choices.items()
    }


def _in_formats_of(choices: Choices, solution: Solution) -> dict[str, list[Option]]:
    """Only the options in the format that a solution gives each site."""
    formats = {o.site: o.format for o in solution.options}
    return {
        site: [o for o in options if o.format == formats[site]] for site, options in choices.items()
    }


def _bits_then_rank(choices: Choices, limits: tuple[int, int | None]) -> Solution:
    least = {site: min(o.rank for o in options) for site, options in choices.items()}
    first = solve(
        {site: [o for o in options if o.rank == least[site]] for site, options in choices.items()},
        *limits,
    )
    return solve(_in_formats_of(choices, first), *limits)


def _random(choices: Choices, limits: tuple[int, int | None], source: random.Random) -> Solution:
    """A random plan that no single step up would still let fit."""
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
    """The planned options, permuted among sites whose options have the same sizes."""
    groups: dict[tuple[int, ...], list[Option]] = {}
    for option in planned.options:
        sizes = tuple(sorted(o.stored for o in choices[option.site]))
        groups.setdefault(sizes, []).append(option)
    permuted: dict[str, Option] = {}
    for group in groups.values():
        for option, other in zip(group, source.sample(group, len(group)), strict=True):
            permuted[option.site] = _same(choices[option.site], other)
    return _solution({option.site: permuted[option.site] for option in planned.options})


def _same(options: Sequence[Option], like: Option) -> Option:
    """The option of a site with the format and rank of another site's option."""
    match = next((o for o in options if (o.format, o.rank) == (like.format, like.rank)), None)
    return match if match is not None else replace(like, site=options[0].site)
