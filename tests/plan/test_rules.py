"""Laws of plans: defaults first, then rules in order, the later ones winning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.models import CASES, opened
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.errors import UserError
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import (
    BLOCK_ROLES,
    Choice,
    Plan,
    Role,
    Rule,
    RunSpec,
    Site,
    TaskSpec,
    TrainSpec,
)
from lowbit.models.skeleton import Kind
from lowbit.plan.file import load_plan, to_toml
from lowbit.plan.named import NAMED, named
from lowbit.plan.rules import TRAINED_HEAD, careful, choose, describe, matches
from lowbit.quant.formats import CASTS, FORMATS, bits_of, parse, spell

Folder = Callable[[str], Path]
DEPTH = 5
every_case = pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda value: str(value))


def sites() -> tuple[Site, ...]:
    """Five blocks, a tied head and a fresh one."""
    found = [Site("model.embed", "embedding", (90, 32), aliases=("lm_head",))]
    for depth in range(DEPTH):
        found.append(Site(f"layers.{depth}.attn.q", "attention", (32, 32), depth))
        found.append(Site(f"layers.{depth}.mlp.up", "ffn", (48, 32), depth))
    return (*found, Site("classifier", "head", (2, 32), fresh=True, bias=2))


SITES = sites()
FORMAT_NAMES = st.sampled_from(["bf16", "int8@row", "nf4@64+dq", "int3@16", "ternary@32"])
RULES = st.builds(
    Rule,
    role=st.sampled_from([None, *BLOCK_ROLES]),
    depth=st.lists(st.integers(-DEPTH, DEPTH - 1), max_size=3).map(tuple),
    name=st.sampled_from([None, "layers.*", "*.q", "*.up", "layers.[01].*"]),
    format=st.none() | FORMAT_NAMES,
    rank=st.none() | st.integers(0, 32),
)


def hit(rule: Rule) -> list[str]:
    return [site.name for site in SITES if matches(rule, site, DEPTH)]


# --- order ------------------------------------------------------------------------------------


@given(st.lists(RULES.filter(lambda rule: bool(hit(rule))), max_size=5))
def test_a_site_has_what_the_last_rule_that_says_it_says(rules: list[Rule]) -> None:
    plan = Plan("p", "int4@64", rank=3, rule=tuple(rules))
    choices = choose(plan, SITES)
    assert choices.keys() == {site.name for site in SITES}
    for site in SITES:
        if site.role not in BLOCK_ROLES:
            continue
        mine = [rule for rule in rules if matches(rule, site, DEPTH)]
        formats = ["int4@64", *(r.format for r in mine if r.format is not None)]
        ranks = [3, *(r.rank for r in mine if r.rank is not None)]
        assert choices[site.name] == Choice(parse(formats[-1]), ranks[-1])


@given(RULES.filter(lambda rule: bool(hit(rule))), st.integers(0, 8))
def test_a_rule_touches_no_site_that_it_does_not_match(rule: Rule, rank: int) -> None:
    plan = Plan("p", "int4@64", rank=rank)
    before, after = choose(plan, SITES), choose(replace(plan, rule=(rule,)), SITES)
    for name in set(before) - set(hit(rule)):
        assert after[name] == before[name]


def test_choosing_is_pure_and_deterministic() -> None:
    plan = Plan("p", "int4@64", rule=(Rule(role="ffn", rank=2), Rule(depth=(-1,), format="bf16")))
    assert choose(plan, SITES) == choose(plan, SITES) == choose(plan, list(SITES))


# --- conditions -------------------------------------------------------------------------------


@given(st.integers(1, DEPTH))
def test_a_negative_depth_counts_from_the_end(back: int) -> None:
    assert hit(Rule(depth=(-back,))) == hit(Rule(depth=(DEPTH - back,)))
    assert hit(Rule(depth=(-back,))) == [site.name for site in SITES if site.depth == DEPTH - back]


@pytest.mark.parametrize("depth", [-DEPTH - 1, DEPTH, 99, -99])
def test_a_depth_that_the_model_lacks_matches_nothing(depth: int) -> None:
    assert hit(Rule(depth=(depth,))) == []
    with pytest.raises(UserError, match="matches no site"):
        choose(Plan("p", rule=(Rule(depth=(depth,), format="bf16"),)), SITES)


def test_a_name_is_a_glob_over_names_and_aliases() -> None:
    assert hit(Rule(name="lm_head")) == hit(Rule(name="model.embed")) == ["model.embed"]
    assert hit(Rule(name="LM_HEAD")) == []
    assert hit(Rule(name="lm")) == []
    assert hit(Rule(name="*.attn.?")) == [f"layers.{i}.attn.q" for i in range(DEPTH)]
    assert hit(Rule(name="layers.[03].mlp*")) == ["layers.0.mlp.up", "layers.3.mlp.up"]


def test_all_conditions_of_a_rule_must_hold() -> None:
    rule = Rule(role="ffn", depth=(0, -1), name="layers.4.*")
    assert hit(rule) == ["layers.4.mlp.up"]
    assert hit(replace(rule, role="attention")) == ["layers.4.attn.q"]
    assert hit(replace(rule, depth=(0,))) == []


def test_a_rule_without_conditions_matches_every_site() -> None:
    assert hit(Rule()) == [site.name for site in SITES]
    assert describe(Rule()) == "no condition"
    rule = Rule(role="ffn", depth=(0, -1), name="*.up")
    assert describe(rule) == "role = 'ffn', depth = [0, -1], name = '*.up'"


# --- embeddings and heads ---------------------------------------------------------------------


@pytest.mark.parametrize("text", [*CASTS, *FORMATS])
def test_embeddings_keep_eight_bits_unless_the_plan_says_otherwise(text: str) -> None:
    found = parse(careful(text))
    assert bits_of(found) >= 8
    assert found == (parse(text) if bits_of(parse(text)) >= 8 else parse("int8@row"))
    choices = choose(Plan("p", text), SITES)
    assert choices["model.embed"] == Choice(found, 0)
    declared = choose(Plan("p", "bf16", embedding=text), SITES)
    assert declared["model.embed"] == Choice(parse(text), 0)


def test_a_rule_for_blocks_and_embeddings_gives_a_rank_to_blocks_alone() -> None:
    choices = choose(Plan("p", "int4@64", rank=1, rule=(Rule(rank=5, format="int8@row"),)), SITES)
    assert {choices[s.name].rank for s in SITES if s.role in BLOCK_ROLES} == {5}
    assert choices["model.embed"] == Choice(parse("int8@row"), 0)


@given(st.lists(RULES.filter(lambda rule: bool(hit(rule))), max_size=3))
def test_a_fresh_head_is_trained_whatever_the_rules_say(rules: list[Rule]) -> None:
    everything = Rule(format="int2@64", base="frozen")
    plan = Plan("p", "int4@64", rule=(*rules, everything))
    assert choose(plan, SITES)["classifier"] == TRAINED_HEAD


def test_a_trained_base_has_no_adapter() -> None:
    rules = (Rule(role="ffn", base="trained", format="fp32"), Rule(rank=4))
    choices = choose(Plan("p", "int4@64", rule=rules), SITES)
    assert choices["layers.0.mlp.up"] == Choice(parse("fp32"), 0, "trained")
    assert choices["layers.0.attn.q"] == Choice(parse("int4@64"), 4)


# --- named configurations ---------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("plan", list(NAMED.values()), ids=lambda plan: plan.name)
def test_every_named_configuration_applies_to_every_family(
    tiny_model: Folder, name: str, kind: Kind, plan: Plan
) -> None:
    start = opened(tiny_model(name), kind)
    choices = choose(plan, start.sites)
    assert choices.keys() == {site.name for site in start.sites}
    for site in start.sites:
        choice = choices[site.name]
        if plan.name.endswith(".qv"):
            parts = ("query", "value", "q_proj", "v_proj", "c_attn")
            assert (choice.rank > 0) == site.name.endswith(parts)
        else:
            assert (choice.rank > 0) == (site.role in BLOCK_ROLES)
        assert (choice.base == "trained") == site.fresh
    counted = start.counted(plan)
    assert counted.count.trainable > 0
    assert counted.choices == choices


def formats_of(plan: Plan, role: Role, depth: int | None = None) -> set[str]:
    choices = choose(plan, SITES)
    hits = [s for s in SITES if s.role == role and depth in (None, s.depth) and not s.fresh]
    return {spell(choices[site.name].quant) for site in hits}


def test_the_named_configurations_are_those_of_the_joint_study() -> None:
    six = {"B-FP", "B-Q4", "B-Ada", "Joint-1", "Joint-2", "Joint-3"}
    assert set(NAMED) == six | {f"{name}.qv" for name in six}
    scheduled = {name for name, plan in NAMED.items() if plan.schedule.kind == "adalora"}
    assert scheduled == {f"{n}{s}" for n in ("B-Ada", "Joint-1", "Joint-2") for s in ("", ".qv")}
    assert all(plan.alpha == "2r" for plan in NAMED.values())
    four, eight = "nf4@64+dq", "int8@row"
    assert formats_of(NAMED["B-FP"], "ffn") == formats_of(NAMED["B-FP"], "embedding") == {"bf16"}
    assert formats_of(NAMED["B-Q4"], "embedding") == formats_of(NAMED["B-Q4"], "ffn") == {four}
    assert (
        formats_of(NAMED["Joint-1"], "embedding") == formats_of(NAMED["Joint-1"], "ffn") == {four}
    )
    assert formats_of(NAMED["Joint-2"], "embedding") == {eight}
    assert {n: NAMED[n].rank for n in six - {"Joint-3"}} == {
        "B-FP": 8, "B-Q4": 8, "B-Ada": 12, "Joint-1": 12, "Joint-2": 12
    }  # fmt: skip
    assert {plan.schedule.target for name, plan in NAMED.items() if name in scheduled} == {4}
    for depth in range(DEPTH):
        expected = {eight} if depth in (0, DEPTH - 1) else {four}
        assert formats_of(NAMED["Joint-2"], "attention", depth) == expected
        assert formats_of(NAMED["Joint-2"], "ffn", depth) == expected
    assert formats_of(NAMED["Joint-3"], "attention") == {eight}
    assert formats_of(NAMED["Joint-3"], "ffn") == {four}
    ranks = choose(NAMED["Joint-3"], SITES)
    assert ranks["layers.0.attn.q"].rank == 6
    assert ranks["layers.0.mlp.up"].rank == 10


def test_a_format_is_a_plan_and_a_studys_own_plans_come_first() -> None:
    assert named("nf4@64+dq") == Plan("nf4@64+dq", "nf4@64+dq")
    assert named("Joint-2") is NAMED["Joint-2"]
    mine = Plan("B-FP", "int2@64")
    assert named("B-FP", {"B-FP": mine}) is mine


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("joint-2", "Joint-2"),
        ("Joint2", "Joint-2"),
        ("B-FPP", "B-FP"),
        ("nf44@64", "nf4@64"),
        ("int9@64", "int8@64"),
        ("inti8", "int8"),
        ("bf61", "bf16"),
    ],
)
def test_an_unknown_plan_suggests_the_nearest_name(wrong: str, right: str) -> None:
    with pytest.raises(UserError, match=rf"unknown plan '{wrong}'\. Did you mean '{right}'\?"):
        named(wrong)


def test_a_format_with_a_wrong_part_is_no_plan() -> None:
    with pytest.raises(UserError, match="nf4"):
        named("nf4@zero")


def test_a_schedule_without_ranks_is_refused() -> None:
    plan = Plan("p", "nf4@64", rank=0, schedule=RankSchedule("adalora", target=1))
    with pytest.raises(UserError, match="the adalora schedule has no ranks to cut"):
        choose(plan, SITES)


def test_rules_that_may_leave_sites_out_need_a_format(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('rank = 4\n\n[[rule]]\nrole = "attention"\nformat = "nf4@64"\n')
    with pytest.raises(UserError, match="'mine' has rules but no format"):
        load_plan(str(path))
    path.write_text('format = "bf16"\n' + path.read_text())
    assert load_plan(str(path)).format == "bf16"


# --- keep and rounding ----------------------------------------------------------------------------

STORED = {
    site.name: "int8@32:full" if site.role == "embedding" else "int4@32:steps" for site in SITES
}


def test_keep_stands_for_the_checkpoints_own_format() -> None:
    choices = choose(named("keep"), SITES, STORED)
    for site in SITES:
        if not site.fresh:
            assert spell(choices[site.name].quant) == STORED[site.name]


def test_a_rule_may_keep_some_sites_and_others_change() -> None:
    plan = Plan("p", "nf4@64", embedding="bf16", rule=(Rule(role="ffn", format="keep"),))
    choices = choose(plan, SITES, STORED)
    assert spell(choices["layers.0.mlp.up"].quant) == "int4@32:steps"
    assert spell(choices["layers.0.attn.q"].quant) == "nf4@64"


def test_a_checkpoint_that_does_not_say_its_formats_cannot_be_kept() -> None:
    with pytest.raises(UserError, match=r"keeps the format of model\.embed, but the checkpoint"):
        choose(named("keep"), SITES)


def test_a_misspelt_keep_suggests_it() -> None:
    with pytest.raises(UserError, match="Did you mean 'keep'"):
        named("kepe")


def test_calibrated_rounding_is_for_block_matrices_with_levels() -> None:
    rules = (Rule(depth=(0,), format="bf16"), Rule(depth=(1,), format="keep"))
    plan = Plan("p", "int4@64", rounding="calibrated", rule=rules)
    choices = choose(plan, SITES, STORED)
    calibrated = {name for name, choice in choices.items() if choice.rounding == "calibrated"}
    blocks = {s.name for s in SITES if s.depth is not None and s.depth > 1}
    assert calibrated == blocks | {"model.embed"}, "which is tied to the head"


def test_a_head_and_an_embedding_tied_to_it_are_calibrated_and_a_lookup_is_not() -> None:
    sites = (
        Site("model.embed", "embedding", (64, 32)),
        Site("model.tied", "embedding", (64, 32), aliases=("lm_head",)),
        Site("lm_head", "head", (64, 32)),
        Site("score", "head", (2, 32)),
    )
    plan = Plan("p", "int4@16", embedding="int4@16", rounding="calibrated", rank=0, adapter="none")
    found = {name: choice.rounding for name, choice in choose(plan, sites).items()}
    assert [n for n, rounding in found.items() if rounding == "calibrated"] == [
        "model.tied", "lm_head",
    ]  # fmt: skip


def test_a_rule_sets_the_rounding_of_its_sites() -> None:
    plan = Plan("p", "int4@64", rule=(Rule(role="ffn", rounding="calibrated"),))
    for site in SITES:
        expected = "calibrated" if site.role == "ffn" else "nearest"
        assert choose(plan, SITES)[site.name].rounding == expected


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(role="embedding", rounding="calibrated"), "neither a block matrix nor"),
        (Rule(role="ffn", format="bf16", rounding="calibrated"), "bf16 has no levels"),
        (Rule(role="ffn", format="keep", rounding="calibrated"), "keeps the checkpoint's codes"),
        (Rule(role="ffn", format="bf16", base="trained", rounding="calibrated"), "is trained"),
    ],
)
def test_a_rounding_that_would_do_nothing_is_refused(rule: Rule, words: str) -> None:
    untied = tuple(replace(site, aliases=()) for site in SITES)
    with pytest.raises(UserError, match=words) as raised:
        choose(Plan("p", "int4@64", rule=(rule,)), untied, STORED)
    assert "\n" not in str(raised.value)


def test_rounding_is_written_to_a_plans_file_and_read_back(tmp_path: Path) -> None:
    rules = (Rule(role="ffn", rounding="nearest"),)
    plan = Plan("p", "int3@64", rounding="calibrated", rule=rules)
    (tmp_path / "p.toml").write_text(to_toml(plan))
    assert load_plan(str(tmp_path / "p.toml")) == plan


def test_a_plan_without_it_keeps_its_fingerprint() -> None:
    """Of a run that was recorded before the key existed."""
    run = RunSpec("m", TaskSpec("t"), Plan("p", rule=(Rule(role="ffn", rank=4),)), TrainSpec(), 0)
    declared = run.declared()["plan"]
    assert "rounding" not in declared
    assert set(declared["rule"][0]) == {"role", "depth", "name", "format", "rank", "base"}
    other = replace(run, plan=replace(run.plan, rounding="calibrated"))
    assert other.fingerprint != run.fingerprint
