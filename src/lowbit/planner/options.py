"""Bits and ranks of every site as options for the solver, and a solution as a plan.

    cost(format, rank) = damage(format) left(format, rank) + worth(largest rank) - worth(rank)

in nats a token above 16 bits at the largest rank that was measured; none is negative. Damage has no
first order: that is the calibration sample's own, and training on the task takes it away.
Embeddings and heads have rank 0. Stored bytes are the ledger's. In training an adapter takes four
times its own bytes (itself, its gradient, two moments), the base what it takes at rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowbit.core.errors import UserError
from lowbit.core.spec import Plan, Rule, Site
from lowbit.planner.knapsack import Choices, Option, Solution
from lowbit.quant.byte_counts import adapter_numbers, stored
from lowbit.quant.formats import parse
from lowbit.sensitivity.table import Predictor, Reach, SensitivityTable, SiteTable
from lowbit.sensitivity.theory.damage import converse

FULL = "bf16"
"""No damage: what the others are measured against."""
TRAINED = 16
"""Bytes of an adapter's number in training: fp32 four times."""


@dataclass(frozen=True)
class Belief:
    """Which damage is believed, how much of what ranks take back of it, and of what they win."""

    damage: Predictor = "anchored"
    taken: float = 1.0
    worth: float = 1.0


TRAINED_AFTER = Belief()
UNTRAINED = Belief(taken=0.0, worth=0.0)


def options(
    table: SensitivityTable,
    formats: Sequence[str],
    ranks: Sequence[int],
    belief: Belief = TRAINED_AFTER,
) -> Choices:
    """What every site may get."""
    return {
        site.name: [o for text in formats for o in _of_site(site, text, ranks, belief)]
        for site in table.sites
    }


def _of_site(site: SiteTable, text: str, ranks: Sequence[int], belief: Belief) -> list[Option]:
    damage = 0.0 if text == FULL else getattr(site.damages[text], belief.damage)
    base = stored(parse(text), site.shape).total
    if site.reach is None:
        return [Option(site.name, text, 0, damage, base, base, damage)]
    made = []
    for rank in fitting(site.name, site.shape, ranks):
        left = 0.0 if text == FULL else damage * site.reach.left(text, rank, belief.taken)
        lack = belief.worth * _lack(site.reach, rank)
        numbers = adapter_numbers(Site(site.name, "ffn", site.shape), rank)
        sizes = (base + 4 * numbers, base + TRAINED * numbers)
        made.append(Option(site.name, text, rank, left + lack, *sizes, damage, lack))
    return made


def fitting(name: str, shape: tuple[int, int], ranks: Sequence[int]) -> list[int]:
    """The ranks that a matrix can have, the least first."""
    found = sorted(rank for rank in ranks if rank <= min(shape))
    if not found:
        tried = ", ".join(map(str, ranks))
        size = f"{shape[0]} x {shape[1]}"
        raise UserError(f"{name} is {size}: none of the ranks {tried} fits it")
    return found


def _lack(reach: Reach, rank: int) -> float:
    """What the largest measured rank wins more."""
    if not reach.gains:
        return 0.0
    return max(reach.gains) - reach.gains[reach.ranks.index(rank)]


def expected(solution: Solution, damage: float) -> float:
    """What training is expected to leave where storing it did so much damage: its share that the
    ranks do not take back, as predicted, and what they win less than the largest."""
    before = sum(option.damage for option in solution.options)
    lack = sum(option.lack for option in solution.options)
    left = solution.cost - lack
    return damage * (left / before if before > 0 else 1.0) + lack


def limit_of(table: SensitivityTable, solution: Solution) -> float:
    """The converse (23): nats of second order that no code of the block matrices' bytes avoids, of
    those that are stored in few bits."""
    chosen = {option.site: option for option in solution.options}
    values: list[float] = []
    weights: list[float] = []
    size = 0
    for site in table.sites:
        if site.spectra is None or chosen[site.name].format == FULL:
            continue
        size += stored(parse(chosen[site.name].format), site.shape).total
        numbers = site.shape[0] * site.shape[1]
        pairs = [site.variance * a * g for a in site.spectra[0] for g in site.spectra[1]]
        values += pairs
        weights += [numbers / len(pairs)] * len(pairs)
    return converse(values, 8 * size / max(1.0, sum(weights)), weights)


def second_order(table: SensitivityTable, solution: Solution) -> float:
    """K-FAC's damage of the same matrices, before any rank takes some of it back."""
    chosen = {o.site: o.format for o in solution.options if o.format != FULL}
    of_blocks = {s.name: chosen[s.name] for s in table.sites if s.spectra and s.name in chosen}
    return table.damage(of_blocks, "kfac")


def uniform(
    choices: Choices, adapted: Mapping[str, bool], text: str, rank: int, embedding: str = ""
) -> Solution | None:
    """One format and rank for all block matrices; embeddings and heads alike, or in `embedding`."""
    chosen = []
    for site, found in choices.items():
        wanted = rank if adapted[site] else 0
        named = text if adapted[site] else embedding or text
        match = [o for o in found if o.format == named and o.rank == wanted]
        if not match:
            return None
        chosen.append(match[0])
    return Solution(tuple(chosen), float("-inf"))


def as_plan(solution: Solution, name: str) -> Plan:
    """Rules for what is not the commonest choice; sites by their own names."""
    blocks = [o for o in solution.options if o.rank]
    rest = [o for o in solution.options if not o.rank]
    usual, rank = Counter((o.format, o.rank) for o in blocks).most_common(1)[0][0]
    outside = Counter(o.format for o in rest).most_common(1)
    embedding = outside[0][0] if outside else None
    groups: dict[tuple[str, int], list[str]] = {}
    for option in solution.options:
        expected = (usual, rank) if option.rank else (embedding, 0)
        if (option.format, option.rank) != expected:
            groups.setdefault((option.format, option.rank), []).append(option.site)
    rules = tuple(
        Rule(name=tuple(names), format=text, rank=r or None)
        for (text, r), names in sorted(groups.items())
    )
    return Plan(name, usual, embedding=embedding, rank=rank, alpha="2r", rule=rules)
