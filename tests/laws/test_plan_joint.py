"""From sensitivities to options, and from a solution to a plan that says the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.plan.joint import as_plan, options, uniform
from lowbit.plan.rules import choose
from lowbit.plan.search import solve
from lowbit.quant.formats import parse, spell
from lowbit.quant.ledger import ledger
from lowbit.sensitivity import Damage, Reach, SensitivityTable, SiteTable
from lowbit.spec import Choice, Site

FORMATS, RANKS = ("int8@64", "int4@64", "int3@64"), (4, 8)
SITES = (
    Site("model.embed_tokens", "embedding", (160, 64)),
    *(Site(f"model.layers.{i}.{n}", "ffn", (64, 64), i) for i in range(3) for n in ("up", "down")),
)


def table(weights: list[float]) -> SensitivityTable:
    """Damages that grow as bits shrink, by a factor of its own at every site."""
    rows = []
    for site, weight in zip(SITES, weights, strict=True):
        damages = {
            text: Damage(1.0, 0.001, weight * d, weight * d, weight * d, weight * d, weight * d)
            for text, d in zip(FORMATS, (0.001, 0.01, 0.1), strict=True)
        }
        block = site.role == "ffn"
        reach = Reach(RANKS, dict.fromkeys(FORMATS, (0.2, 0.4)), (0.01, 0.015))
        rows.append(SiteTable(site.name, site.role, site.depth, site.shape, damages,
                              reach if block else None))  # fmt: skip
    return SensitivityTable("m", "t", "token", 1000, 4.0, 1.0, tuple(rows), {})


WEIGHTS = st.lists(st.floats(0.1, 10), min_size=len(SITES), max_size=len(SITES))


@given(WEIGHTS, st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_a_plan_has_the_choices_and_the_bytes_of_its_solution(
    weights: list[float], share: float
) -> None:
    choices = options(table(weights), FORMATS, RANKS)
    least = sum(min(o.stored for o in found) for found in choices.values())
    most = sum(max(o.stored for o in found) for found in choices.values())
    budget = round(least + share * (most - least))
    found = solve(choices, budget)
    plan = as_plan(found, "planned")
    chosen = choose(plan, SITES)
    for option in found.options:
        choice = chosen[option.site]
        assert (spell(choice.quant), choice.rank) == (option.format, option.rank)
    count = ledger(SITES, chosen, 0, 0)
    assert count.stored == found.stored <= budget


def test_a_cost_is_what_is_left_of_the_damage_less_what_rank_gains() -> None:
    found = options(table([1.0] * len(SITES)), FORMATS, RANKS, believed=1.0)["model.layers.0.up"]
    (option,) = [o for o in found if (o.format, o.rank) == ("int3@64", 8)]
    damage = 0.1
    assert option.cost == pytest.approx(damage * 0.6 - 0.015)
    assert option.training - option.stored == 12 * 8 * 128
    half = options(table([1.0] * len(SITES)), FORMATS, RANKS, trust=0.5)["model.layers.0.up"]
    (other,) = [o for o in half if (o.format, o.rank) == ("int3@64", 8)]
    assert other.cost == pytest.approx(damage * 0.8)


def test_the_first_order_of_the_sample_is_no_part_of_a_cost() -> None:
    plain = options(table([1.0] * len(SITES)), FORMATS, RANKS, "measured")
    closed = options(table([1.0] * len(SITES)), FORMATS, RANKS, "kfac")
    site = SITES[0].name
    assert closed[site][0].cost - plain[site][0].cost == pytest.approx(0.001)


def test_uniform_plans_are_among_the_options() -> None:
    choices = options(table([1.0] * len(SITES)), FORMATS, RANKS)
    adapted = {site.name: site.role == "ffn" for site in SITES}
    found = uniform(choices, adapted, "int4@64", 8)
    assert found is not None
    expected = {s.name: Choice(parse("int4@64"), 8 * adapted[s.name]) for s in SITES}
    assert found.stored == ledger(SITES, expected, 0, 0).stored
    assert uniform(choices, adapted, "int4@64", 5) is None
    best = solve(choices, found.stored)
    assert best.cost <= found.cost + 1e-9


def test_a_sensitive_site_gets_more_bits() -> None:
    weights = [1.0] * len(SITES)
    weights[3] = 10.0
    choices = options(table(weights), FORMATS, RANKS)
    middle = sum(sorted(o.stored for o in found)[len(found) // 2] for found in choices.values())
    bits = {o.site: int(o.format[3]) for o in solve(choices, middle).options}
    assert bits[SITES[3].name] == max(bits[s.name] for s in SITES[1:])
    assert replace(table(weights), loss=1.0).formats == list(FORMATS)
