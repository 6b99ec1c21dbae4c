"""Bits and ranks of every site as options for the solver, and a solution as a plan.

    cost(format, rank) = damage(format) (1 - trust absorbed(format, rank)) - believed gain(rank)

in nats a token, of second order: the first order is the calibration sample's own, and training on
the task takes it away. Embeddings and heads have rank 0. Stored
bytes are the ledger's. In training an adapter takes four times its own bytes (itself, its gradient,
two moments), the base what it takes at rest. How much of the damage rank takes back is of second
order and off by up to a factor of two. What rank gains for the task is not believed by default: a
gradient whitened by the factors of few tokens knows no bounds, and nothing has calibrated it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lowbit.errors import UserError
from lowbit.plan.search import Choices, Option, Solution
from lowbit.quant.formats import parse
from lowbit.quant.ledger import adapter_numbers, stored
from lowbit.sensitivity import Predictor, SensitivityTable, SiteTable, trusted
from lowbit.spec import Plan, Rule, Site
from lowbit.theory.damage import converse

FULL = "bf16"
"""No damage: what the others are measured against."""
TRAINED = 16
"""Bytes of an adapter's number in training: fp32 four times."""


def options(
    table: SensitivityTable,
    formats: Sequence[str],
    ranks: Sequence[int],
    predictor: Predictor | None = None,
    trust: float = 1.0,
    believed: float = 0.0,
) -> Choices:
    """What every site may get. `predictor`: None for the trusted one of each format."""
    return {
        site.name: [
            option
            for text in formats
            for option in _of_site(site, text, ranks, predictor or trusted(text), (trust, believed))
        ]
        for site in table.sites
    }


def _of_site(
    site: SiteTable,
    text: str,
    ranks: Sequence[int],
    predictor: Predictor,
    trust: tuple[float, float],
) -> list[Option]:
    damage = 0.0
    if text != FULL:
        found = site.damages[text]
        value = getattr(found, predictor)
        # What ran the stored model has the first order in it.
        damage = value - found.first_order if predictor == "measured" else value
    base = stored(parse(text), site.shape).total
    if site.reach is None:
        return [Option(site.name, text, 0, damage, base, base)]
    made = []
    for i, rank in enumerate(site.reach.ranks):
        if rank in ranks and rank <= min(site.shape):
            share = site.reach.absorbed[text][i] if text != FULL else 0.0
            left = damage - trust[0] * share * max(damage, 0.0)
            numbers = adapter_numbers(Site(site.name, "ffn", site.shape), rank)
            cost = left - trust[1] * site.reach.gains[i]
            made.append(
                Option(site.name, text, rank, cost, base + 4 * numbers, base + TRAINED * numbers)
            )
    if not made:
        tried = ", ".join(map(str, ranks))
        shape = f"{site.shape[0]} x {site.shape[1]}"
        raise UserError(f"{site.name} is {shape}: none of the ranks {tried} fits it")
    return made


def limit_of(table: SensitivityTable, solution: Solution) -> float:
    """The converse (23): nats of second order that no code of the block matrices' bytes avoids."""
    chosen = {option.site: option for option in solution.options}
    values: list[float] = []
    weights: list[float] = []
    size = 0
    for site in table.sites:
        if site.spectra is None:
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
