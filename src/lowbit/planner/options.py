"""The options of every site for the solver, and a solution as a plan.

    cost(format, rank) = damage(format) * remaining(format, rank)
                       + gain(largest rank) - gain(rank)

The cost is in nats per token above 16 bits at the largest measured rank, and is never negative.
Damage leaves out the first order: it belongs to the calibration sample, and training removes it.
Embeddings and heads have rank 0. Stored bytes are those of `quant.byte_counts`. In training, an
adapter takes four times its own bytes (weights, gradient, two moments), the base as many as stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lowbit.core.errors import UserError
from lowbit.core.spec import Plan, Rounding, Rule, Site
from lowbit.planner.knapsack import Choices, Option, Solution
from lowbit.quant.byte_counts import adapter_numbers, matrix_bytes
from lowbit.quant.formats import parse
from lowbit.sensitivity.table import Predictor, RankEffect, SensitivityTable, SiteTable
from lowbit.sensitivity.theory.damage import converse

FULL_PRECISION = "bf16"
"""The format without damage, which all others are compared with."""
TRAINING_BYTES = 16
"""Bytes per adapter parameter in training: fp32, four times."""


@dataclass(frozen=True)
class CostModel:
    """How costs are computed: the predictor of damage, the share of the predicted recovery by an
    adapter that is counted (`recovered`), and likewise of the predicted gain (`gained`).

    `factors`: what a format's damage is multiplied by, 1 if it is not named (`planner.remeasure`).
    `calibrated`: each matrix's damage is what calibrated rounding is expected to leave of it.
    """

    predictor: Predictor = "anchored"
    recovered: float = 1.0
    gained: float = 1.0
    factors: Mapping[str, float] = field(default_factory=dict)
    calibrated: bool = False


TRAINED_AFTER = CostModel()
UNTRAINED = CostModel(recovered=0.0, gained=0.0)


def options(
    table: SensitivityTable,
    formats: Sequence[str],
    ranks: Sequence[int],
    costs: CostModel = TRAINED_AFTER,
) -> Choices:
    """Every format and rank that a site can have, with cost and bytes."""
    return {
        site.name: [o for text in formats for o in _of_site(site, text, ranks, costs)]
        for site in table.sites
    }


def _of_site(site: SiteTable, text: str, ranks: Sequence[int], costs: CostModel) -> list[Option]:
    exact = text == FULL_PRECISION
    damage = 0.0 if exact else getattr(site.damages[text], costs.predictor)
    damage *= costs.factors.get(text, 1.0)
    if costs.calibrated and not exact:
        damage *= site.damages[text].calibrated_share
    base = matrix_bytes(parse(text), site.shape).total
    if site.reach is None:
        return [Option(site.name, text, 0, damage, base, base, damage)]
    rows = []
    for rank in possible_ranks(site.name, site.shape, ranks):
        share = site.reach.remaining_share(text, rank, costs.recovered) if not exact else 0.0
        missed = costs.gained * _missed_gain(site.reach, rank)
        numbers = adapter_numbers(Site(site.name, "ffn", site.shape), rank)
        sizes = (base + 4 * numbers, base + TRAINING_BYTES * numbers)
        rows.append(Option(site.name, text, rank, damage * share + missed, *sizes, damage, missed))
    return rows


def possible_ranks(name: str, shape: tuple[int, int], ranks: Sequence[int]) -> list[int]:
    """The ranks that a matrix of this shape can have, smallest first."""
    possible = sorted(rank for rank in ranks if rank <= min(shape))
    if not possible:
        tried = ", ".join(map(str, ranks))
        size = f"{shape[0]} x {shape[1]}"
        raise UserError(f"{name} is {size}: none of the ranks {tried} fits it")
    return possible


def _missed_gain(reach: RankEffect, rank: int) -> float:
    """What the largest measured rank gains more than this one."""
    if not reach.gains:
        return 0.0
    return max(reach.gains) - reach.gains[reach.ranks.index(rank)]


def expected_damage(solution: Solution, damage: float) -> float:
    """The nats expected after training, where storing the plan did this much damage before it.

    That is the share of the damage that the ranks are predicted not to recover, plus the gain that
    they miss compared with the largest rank.
    """
    before = sum(option.damage for option in solution.options)
    missed = sum(option.missed_gain for option in solution.options)
    remaining = solution.cost - missed
    return damage * (remaining / before if before > 0 else 1.0) + missed


def converse_bound(table: SensitivityTable, solution: Solution) -> float:
    """The converse (23): second-order damage, in nats, that no code of the same bytes can avoid.

    Counts the block matrices that are stored in fewer than 16 bits.
    """
    chosen = {option.site: option for option in solution.options}
    values: list[float] = []
    weights: list[float] = []
    size = 0
    for site in table.sites:
        if site.spectra is None or chosen[site.name].format == FULL_PRECISION:
            continue
        size += matrix_bytes(parse(chosen[site.name].format), site.shape).total
        numbers = site.shape[0] * site.shape[1]
        pairs = [site.variance * a * g for a in site.spectra[0] for g in site.spectra[1]]
        values += pairs
        weights += [numbers / len(pairs)] * len(pairs)
    return converse(values, 8 * size / max(1.0, sum(weights)), weights)


def kfac_damage(table: SensitivityTable, solution: Solution) -> float:
    """The damage of the same matrices by K-FAC, before any adapter recovers part of it."""
    chosen = {o.site: o.format for o in solution.options if o.format != FULL_PRECISION}
    of_blocks = {s.name: chosen[s.name] for s in table.sites if s.spectra and s.name in chosen}
    return table.damage(of_blocks, "kfac")


def uniform_solution(
    choices: Choices, adapted: Mapping[str, bool], text: str, rank: int, embedding: str = ""
) -> Solution | None:
    """One format and rank for all block matrices; embeddings and heads in `embedding`, or the same.

    None where a site has no such option.
    """
    chosen = []
    for site, available in choices.items():
        choice = (text, rank) if adapted[site] else (embedding or text, 0)
        match = next((o for o in available if (o.format, o.rank) == choice), None)
        if match is None:
            return None
        chosen.append(match)
    return Solution(tuple(chosen), float("-inf"))


def to_plan(solution: Solution, name: str, rounding: Rounding = "nearest") -> Plan:
    """The solution as a plan: the commonest choice as its default, a rule for each other choice."""
    blocks = [o for o in solution.options if o.rank]
    rest = [o for o in solution.options if not o.rank]
    usual, rank = Counter((o.format, o.rank) for o in blocks).most_common(1)[0][0]
    outside = Counter(o.format for o in rest).most_common(1)
    embedding = outside[0][0] if outside else None
    groups: dict[tuple[str, int], list[str]] = {}
    for option in solution.options:
        default = (usual, rank) if option.rank else (embedding, 0)
        if (option.format, option.rank) != default:
            groups.setdefault((option.format, option.rank), []).append(option.site)
    rules = tuple(
        Rule(name=tuple(names), format=text, rank=r or None)
        for (text, r), names in sorted(groups.items())
    )
    return Plan(
        name, usual, embedding=embedding, rank=rank, alpha="2r", rule=rules, rounding=rounding
    )
