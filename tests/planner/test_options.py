"""From sensitivities to options, and from a solution to a plan that says the same."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.core.errors import UserError
from lowbit.core.spec import Choice, Site
from lowbit.plan.rules import choose
from lowbit.planner.controls import controls
from lowbit.planner.knapsack import Option, Solution
from lowbit.planner.options import (
    TRAINED_AFTER,
    UNTRAINED,
    CostModel,
    converse_bound,
    expected_damage,
    kfac_damage,
    options,
    to_plan,
    uniform_solution,
)
from lowbit.planner.other_quantizers import quantizer_configs
from lowbit.planner.search import solve, undominated
from lowbit.quant.byte_counts import count_bytes, matrix_bytes
from lowbit.quant.formats import bits_of, parse, spell
from lowbit.sensitivity.guide import advice
from lowbit.sensitivity.table import Damage, RankEffect, SensitivityTable, SiteTable
from lowbit.sensitivity.theory.damage import adapter_parameters

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
            text: Damage(1.0, 0.001, d, weight * d, d, -d, anchored=weight * d)
            for text, d in zip(FORMATS, (0.001, 0.01, 0.1), strict=True)
        }
        block = site.role == "ffn"
        reach = RankEffect(RANKS, dict.fromkeys(FORMATS, (0.2, 0.4)), (0.01, 0.015))
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
    least = sum(min(o.stored for o in each) for each in choices.values())
    most = sum(max(o.stored for o in each) for each in choices.values())
    budget = round(least + share * (most - least))
    solution = solve(choices, budget)
    plan = to_plan(solution, "planned")
    chosen = choose(plan, SITES)
    for option in solution.options:
        choice = chosen[option.site]
        assert (spell(choice.quant), choice.rank) == (option.format, option.rank)
    count = count_bytes(SITES, chosen, 0, 0)
    assert count.stored == solution.stored <= budget


def cost_of(text: str, rank: int, costs: CostModel = TRAINED_AFTER) -> Option:
    rows = options(table([1.0] * len(SITES)), FORMATS, RANKS, costs)["model.layers.0.up"]
    (option,) = [o for o in rows if (o.format, o.rank) == (text, rank)]
    return option


def test_a_cost_is_what_is_left_of_the_damage_and_what_a_larger_rank_would_win() -> None:
    option = cost_of("int3@64", 8)
    damage = 0.1
    assert option.cost == pytest.approx(damage * 0.6), "8 is the largest rank that was measured"
    assert option.training - option.stored == 12 * 8 * 128
    assert cost_of("int3@64", 8, CostModel(recovered=0.5)).cost == pytest.approx(damage * 0.8)
    less = cost_of("int3@64", 4)
    assert less.cost == pytest.approx(damage * 0.8 + 0.005)
    assert (less.damage, less.missed_gain) == pytest.approx((damage, 0.005))
    assert cost_of("int3@64", 4, UNTRAINED).cost == pytest.approx(damage)


def test_with_calibrated_rounding_a_cost_is_what_that_is_expected_to_leave() -> None:
    rows = table([1.0] * len(SITES))
    up = rows.sites[1]
    damage = replace(up.damages["int3@64"], calibrated_share=0.3)
    site = replace(up, damages={**up.damages, "int3@64": damage})
    rows = replace(rows, sites=(rows.sites[0], site, *rows.sites[2:]))

    def option(costs: CostModel, name: str) -> Option:
        options_of = options(rows, FORMATS, RANKS, costs)[name]
        return next(o for o in options_of if (o.format, o.rank) == ("int3@64", 4))

    calibrated = replace(UNTRAINED, calibrated=True)
    assert option(UNTRAINED, site.name).cost == pytest.approx(0.1)
    assert option(calibrated, site.name).cost == pytest.approx(0.03)
    assert option(calibrated, SITES[2].name).cost == pytest.approx(0.1)


def test_a_quarter_of_the_damage_is_left_whatever_a_rank_is_said_to_take_back() -> None:
    reach = RankEffect(RANKS, dict.fromkeys(FORMATS, (0.5, 0.99998)), (0.01, 0.015))
    assert reach.remaining_share("int3@64", 4) == pytest.approx(0.5)
    assert reach.remaining_share("int3@64", 8) == pytest.approx(0.25)
    assert reach.remaining_share("int3@64", 8, trust=0.5) == pytest.approx(0.50001)
    assert reach.remaining_share("int3@64", 8, trust=0.0) == 1.0
    assert reach.remaining_share("int3@64", 0) == 1.0, "nothing takes back what no adapter corrects"


@given(WEIGHTS, st.lists(st.floats(0, 1), min_size=2, max_size=2))
@settings(max_examples=30, deadline=None)
def test_no_cost_is_negative_and_no_larger_rank_costs_more(
    weights: list[float], shares: list[float]
) -> None:
    """Taylor's term here is negative at every site: no cost may come from it."""
    rising = table(weights)
    reach = RankEffect(RANKS, dict.fromkeys(FORMATS, tuple(sorted(shares))), (0.01, 0.015))
    sites = tuple(replace(s, reach=reach if s.reach else None) for s in rising.sites)
    for rows in options(replace(rising, sites=sites), FORMATS, RANKS).values():
        assert all(option.cost >= 0 for option in rows)
        for text in FORMATS:
            costs = [o.cost for o in rows if o.format == text]
            assert costs == sorted(costs, reverse=True)


@given(WEIGHTS)
@settings(max_examples=20, deadline=None)
def test_what_is_expected_of_the_predicted_damage_is_the_predicted_cost(
    weights: list[float],
) -> None:
    choices = options(table(weights), FORMATS, RANKS)
    chosen = Solution(tuple(each[0] for each in choices.values()), 0.0)
    damage = sum(option.damage for option in chosen.options)
    assert expected_damage(chosen, damage) == pytest.approx(chosen.cost)
    lack = sum(option.missed_gain for option in chosen.options)
    assert lack == pytest.approx(6 * 0.005)
    assert expected_damage(chosen, 0.0) == pytest.approx(lack)


def test_uniform_plans_are_among_the_options() -> None:
    choices = options(table([1.0] * len(SITES)), FORMATS, RANKS)
    adapted = {site.name: site.role == "ffn" for site in SITES}
    solution = uniform_solution(choices, adapted, "int4@64", 8)
    assert solution is not None
    expected = {s.name: Choice(parse("int4@64"), 8 * adapted[s.name]) for s in SITES}
    assert solution.stored == count_bytes(SITES, expected, 0, 0).stored
    assert uniform_solution(choices, adapted, "int4@64", 5) is None
    best = solve(choices, solution.stored)
    assert best.cost <= solution.cost + 1e-9


def test_a_sensitive_site_gets_more_bits() -> None:
    weights = [1.0] * len(SITES)
    weights[3] = 10.0
    choices = options(table(weights), FORMATS, RANKS)
    middle = sum(sorted(o.stored for o in rows)[len(rows) // 2] for rows in choices.values())
    bits = {o.site: int(o.format[3]) for o in solve(choices, middle).options}
    assert bits[SITES[3].name] == max(bits[s.name] for s in SITES[1:])
    assert replace(table(weights), loss=1.0).formats == list(FORMATS)


# --- guidelines, limits, other quantisers' words --------------------------------------------------


def test_advice_is_the_fewest_bits_whose_damage_is_not_seen() -> None:
    measured = table([1.0] * len(SITES))
    shapes = [site.shape for site in SITES if site.role == "ffn"]
    left = {text: 6 * d * 0.6 for text, d in zip(FORMATS, (0.001, 0.01, 0.1), strict=True)}
    for text in FORMATS:
        size = round(adapter_parameters(shapes, 8) / (2 * left[text]))
        assert advice(measured, 8, size - 10, 1.0, FORMATS).format == text
        assert advice(measured, 8, size - 10, 1.0, FORMATS).damage == pytest.approx(left[text])
    assert advice(measured, 8, 10**9, 1.0, FORMATS).format is None
    more, less = (advice(measured, rank, 40_000, 1.0, FORMATS) for rank in (8, 4))
    assert bits_of(parse(more.format or "bf16")) <= bits_of(parse(less.format or "bf16"))


def test_no_plan_is_below_the_converse() -> None:
    rows = [
        replace(site, variance=1.0, spectra=((0.5, 1.0, 2.0), (0.1, 0.4)) if site.reach else None)
        for site in table([1.0] * len(SITES)).sites
    ]
    measured = replace(table([1.0] * len(SITES)), sites=tuple(rows))
    choices = options(measured, FORMATS, RANKS)
    sizes = [
        uniform_solution(choices, {s.name: bool(s.reach) for s in rows}, f, 8) for f in FORMATS
    ]
    limits = [converse_bound(measured, solution) for solution in sizes if solution is not None]
    assert limits == sorted(limits)
    few = replace(rows[1], spectra=(tuple(1.0 for _ in range(4)), (0.25, 1.0)))
    site = replace(measured, sites=(few,))
    option = next(o for o in choices[few.name] if (o.format, o.rank) == ("int3@64", 8))
    bits = 8 * matrix_bytes(parse("int3@64"), few.shape).total / (few.shape[0] * few.shape[1])
    # Two eigenvalues a quarter and one: above the water both, so their geometric mean counts.
    expected = 0.5 * few.shape[0] * few.shape[1] * 0.5 * 4.0**-bits
    assert converse_bound(site, Solution((option,), 0.0)) == pytest.approx(expected, rel=1e-6)
    few = next(s for s in sizes if s is not None)
    assert kfac_damage(measured, few) == pytest.approx(6 * 0.001)


def test_other_quantisers_are_told_what_they_can_say() -> None:
    block = "model.layers.{}.mlp.{}"
    written = quantizer_configs(
        {
            block.format(0, "up_proj"): "int8@row",
            block.format(1, "up_proj"): "int4@64",
            block.format(0, "down_proj"): "nf4@64+dq",
            block.format(1, "down_proj"): "bf16",
        }
    )
    dynamic = written.configs["gptqmodel"]
    matched = [body for key, body in dynamic.items()
               if re.match(key.removeprefix("+:"), block.format(1, "up_proj"))]  # fmt: skip
    assert matched == [{"bits": 4, "group_size": 64, "sym": True}]
    skipped = [key[2:] for key in dynamic if key.startswith("-:")]
    assert any(re.match(key, block.format(1, "down_proj")) for key in skipped)
    assert written.configs["autoround"][block.format(1, "down_proj")] == {"bits": 16}
    assert written.configs["autoround"][block.format(0, "up_proj")]["group_size"] == -1
    assert written.configs["hqq"] == {"mlp.up_proj": {"nbits": 8, "group_size": None}}
    left = f"{block.format(0, 'down_proj')}: nf4@64+dq, left in 16 bits"
    assert written.skipped["gptqmodel"] == (left,)
    assert f"-:^{re.escape(block.format(0, 'down_proj'))}$" in dynamic
    six = quantizer_configs({block.format(0, "up_proj"): "int6@64"})
    assert six.configs["autoround"] == {block.format(0, "up_proj"): {"bits": 16}}
    assert six.configs["hqq"] == {"mlp.up_proj": {"nbits": 6, "group_size": 64}}
    assert any("8 bits in rows instead of 4 bits" in line for line in written.skipped["hqq"])


def test_of_a_kind_the_finest_groups_are_told_and_a_row_is_the_coarsest() -> None:
    name = "model.layers.{}.mlp.up_proj"
    written = quantizer_configs(
        {name.format(0): "int8@row", name.format(1): "int8@64", name.format(2): "int8@32"}
    )
    assert written.configs["hqq"] == {"mlp.up_proj": {"nbits": 8, "group_size": 32}}
    assert len(written.skipped["hqq"]) == 2
    assert "8 bits in groups of 32 instead of 8 bits in rows" in written.skipped["hqq"][0]


def test_what_no_quantiser_stores_is_said_and_left_in_16_bits() -> None:
    block = "model.layers.0.mlp.up_proj"
    written = quantizer_configs(
        {"model.embed_tokens": "int4@64", "lm_head": "int8@64", block: "int4@tensor"},
        ("model.embed_tokens", "lm_head"),
    )
    for name in ("gptqmodel", "autoround", "hqq"):
        assert len(written.skipped[name]) == 3, name
        assert not any(("bits" in body and body["bits"] < 16) or "nbits" in body
                       for body in written.configs[name].values())  # fmt: skip
    assert quantizer_configs({block: "int7@64"}).configs["hqq"] == {}, "HQQ has no 7 bits"


# --- controls -------------------------------------------------------------------------------------


@given(WEIGHTS, st.floats(0.2, 0.9), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_controls_spend_the_same_bytes_and_none_is_predicted_better(
    weights: list[float], share: float, seed: int
) -> None:
    measured = table(weights)
    choices = options(measured, FORMATS, RANKS)
    least = sum(min(o.stored for o in each) for each in choices.values())
    most = sum(max(o.stored for o in each) for each in choices.values())
    limits = (round(least + share * (most - least)), None)
    adapted = {site.name: site.reach is not None for site in measured.sites}
    even = {
        f"{text} r{rank}": solution
        for text in FORMATS
        for rank in RANKS
        if (solution := uniform_solution(choices, adapted, text, rank)) is not None
    }
    best = solve(choices, *limits)
    fitting = [solution for solution in even.values() if solution.fits(*limits)]
    even_best = min(fitting, key=lambda solution: solution.cost, default=None)
    plans = controls(choices, best, even_best, limits, 3, seed)
    assert {"bits then rank", "random 0", "random 1", "random 2", "shuffled"} <= set(plans)
    for name, solution in plans.items():
        assert solution.stored <= limits[0], name
        assert [o.site for o in solution.options] == [o.site for o in best.options], name
        assert solution.cost >= best.cost - 1e-9, name
        to_plan(solution, name)
    assert plans["shuffled"].stored == best.stored
    dealt = sorted((o.format, o.rank) for o in plans["shuffled"].options)
    assert dealt == sorted((o.format, o.rank) for o in best.options)
    if even_best is not None:
        assert plans["uniform"] == even_best
        embedding = even_best.options[0].format
        assert {plans[f"random {i}"].options[0].format for i in range(3)} == {embedding}, (
            "stepping down at random would always sink what is largest"
        )
        assert plans["bits only"].cost <= plans["uniform"].cost + 1e-9
        assert plans["rank only"].cost <= plans["uniform"].cost + 1e-9
    cheapest = min(o.stored for o in choices[SITES[0].name])
    left = limits[0] - plans["random 0"].stored
    steps = [o.stored - chosen.stored for chosen in plans["random 0"].options
             for o in undominated(choices[chosen.site])
             if o.stored > chosen.stored and (chosen.rank or even_best is None)]  # fmt: skip
    assert all(step > left for step in steps), "no step up would still fit"
    assert cheapest > 0


def test_ranks_alone_keep_the_embeddings_of_the_uniform_plan() -> None:
    """The best uniform plan may store them otherwise: its formats are each site's own."""
    measured = table([1.0] * len(SITES))
    choices = options(measured, FORMATS, RANKS)
    adapted = {site.name: site.reach is not None for site in measured.sites}
    mixed = uniform_solution(choices, adapted, FORMATS[-1], RANKS[0], FORMATS[0])
    assert mixed is not None
    assert len({o.format for o in mixed.options}) == 2
    limits = (mixed.stored + 1, None)
    plans = controls(choices, solve(choices, *limits), mixed, limits, 1, 0)
    assert [o.format for o in plans["rank only"].options] == [o.format for o in mixed.options]
    assert plans["rank only"].cost <= plans["uniform"].cost + 1e-9


def test_a_site_that_no_rank_fits_is_named() -> None:
    measured = table([1.0] * len(SITES))
    narrow = replace(measured.sites[2], shape=(3, 64))
    spoilt = replace(measured, sites=(*measured.sites[:2], narrow, *measured.sites[3:]))
    with pytest.raises(UserError, match=f"{narrow.name} is 3 x 64: none of the ranks .* fits it"):
        options(spoilt, FORMATS, RANKS)


def test_the_same_seed_draws_the_same_controls() -> None:
    choices = options(table([1.0] * len(SITES)), FORMATS, RANKS)
    limit = sum(sorted(o.stored for o in each)[len(each) // 2] for each in choices.values())
    best = solve(choices, limit)
    drawn, same, other = (controls(choices, best, None, (limit, None), 2, s) for s in (1, 1, 2))
    assert drawn == same
    assert drawn != other
    assert "uniform" not in drawn
