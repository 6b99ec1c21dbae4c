"""What is said of plans and predictions, in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

import pytest

from lowbit.cli.text.planned import _how_good, _predicted_gap
from lowbit.cli.text.predicted import _afterwards, _prediction, _unsure
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.planner.knapsack import Option, Solution
from lowbit.sensitivity.by_name import unique_names
from lowbit.sensitivity.predictors import Prediction
from lowbit.sensitivity.table import Damage, JointDamage, RankEffect, SensitivityTable, SiteTable


@dataclass(frozen=True)
class There:
    kl: float


@dataclass(frozen=True)
class Tried:
    """As much of a candidate as is spoken of."""

    plan: Plan
    solution: Solution
    change: There
    remaining: float


def tried(name: str, cost: float, kl: float, left: float) -> Tried:
    option = Option("a", "int4@64", 8, cost, 100, 200, cost, 0.0)
    return Tried(Plan(name, "int4@64"), Solution((option,), cost - 0.001), There(kl), left)


def test_what_is_written_is_told_from_what_was_solved_for() -> None:
    planned, other = tried("planned", 0.10, 0.2, 0.09), tried("planned, so", 0.12, 0.2, 0.08)
    alone = " ".join(_how_good([planned], planned))
    assert "at most 0.001 nats from the best, as predicted" in alone
    assert "above it" not in alone
    assert "What is written was predicted 0.02 nats above it." in " ".join(
        _how_good([other, planned], other)
    )


def test_what_training_leaves_has_an_interval() -> None:
    one = tried("planned", 0.1, 0.2, 0.08)
    words = " ".join(_how_good([one], one))
    assert "about 0.0800 nats above 16 bits at the largest rank" in words
    assert "anything from 0.0400 to 0.1600" in words
    assert "After training" not in " ".join(_how_good([one], one, untrained=True))


@pytest.mark.parametrize(("kl", "said"), [(0.1, True), (0.3, False)])
def test_a_uniform_plan_that_is_nearer_before_training_is_named(kl: float, said: bool) -> None:
    best, even = tried("planned", 0.1, 0.2, 0.08), tried("uniform int4@64 r4", 0.2, kl, 0.2)
    words = " ".join(_how_good([best, even], best))
    assert ("uniform int4@64 r4 is nearer to 16 bits there (KL 0.1000 for 0.2000)" in words) == said


@pytest.mark.parametrize(
    ("text", "trusted", "warned"),
    [("int4@64", "Taylor, real eps is the one", False), ("int2@64", "K-FAC is the one", True)],
)
def test_the_closed_form_to_trust_is_named(text: str, trusted: str, warned: bool) -> None:
    found = {n: Prediction(n, 0.1, 0.01, n == "kl") for n in ("taylor", "kfac", "kl")}
    option = Option("a", text, 8, 0.1, 100, 200, 0.1, 0.0)
    (words,) = _predicted_gap(found, Solution((option,), 0.1))
    assert words.startswith("Predicted gap before training: 0.1000 nats (0.0804 to 0.1196), by run")
    assert trusted in words
    assert ("below 3 none was near" in words) == warned
    assert _predicted_gap({}, Solution((option,), 0.1)) == []


def test_plans_of_one_name_are_told_apart_by_what_was_asked_for() -> None:
    spec = RunSpec("m", TaskSpec("t"), Plan("returned", "int4@64"), TrainSpec(), 0)
    other = replace(spec, plan=Plan("Joint-2", "int4@64"))
    found = unique_names({"a/returned.toml": spec, "b/returned.toml": spec, "joint-2": other})
    assert list(found) == ["a/returned.toml", "b/returned.toml", "Joint-2"]


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (
            0.01,
            "± 0.0196 nats, which is more than there is of it; about 3,842 tokens would resolve it",
        ),
        (-0.0196e-4, "no text would resolve it"),
        (0.02, None),
        (0.0, None),
    ],
)
def test_a_gap_that_the_text_cannot_tell_from_none_says_how_much_text_could(
    gap: float, said: str | None
) -> None:
    whole = JointDamage(0.0, 0.0, 0.1, 0.1, gap, 0.1, None, 0.0, 0.1, 0.01, 0.01, 0.0, None, 0.0)
    whole = replace(whole, kl=gap, kl_spread=0.01, loss_spread=0.01)
    table = SensitivityTable("m", "t", "token", 1000, 3.0, 9.0, (), {"p": whole}, 9)
    words = _unsure(table, "p")
    assert words == "" if said is None else said in words


def test_a_gap_is_told_in_perplexity_too() -> None:
    """At a loss of log 20 a gap of log 1.1 raises perplexity by 2."""
    whole = JointDamage(
        1.0, 0.0, 0.1, 0.1, log(1.1), 0.1, None, 0.0, 0.1, 0.01, 0.1, 0.0, None, 0.0
    )
    table = SensitivityTable("m", "t", "token", 1000, log(20), 9.0, (), {"p": whole}, 9)
    page = _prediction(table, "p", {"a": "int4@64"})
    names, risen = (list(page.columns[i].cells) for i in (0, 3))
    assert risen[names.index("Taylor, real eps")] == "+2 (+2 to +2)"
    assert [str(cell) for cell in page.columns[4].cells].count("theory *") == 1
    sentences = replace(table, unit="sentence")
    assert set(_prediction(sentences, "p", {"a": "int4@64"}).columns[3].cells) == {""}


@pytest.mark.parametrize(
    ("text", "absorbed", "said"),
    [
        ("int4@64", 0.5, "about 0.5000 nats of it are expected to be left (50 %"),
        ("int4@64", 0.5, "anything from 0.2500 to 1.0000 (28 to 1.7e+02 % of perplexity)"),
        ("int4@64", 0.9, "about 0.2500 nats"),
        # 0.042 nats were left of one nat in the bounds study.
        ("ternary@64", 0.9, "anything from 0.0417 to 0.5000"),
    ],
)
def test_what_training_is_to_leave_has_the_range_that_was_seen(
    text: str, absorbed: float, said: str
) -> None:
    damage, reach = Damage(1.0, 0.0, 1.0, 1.0, None), RankEffect((8,), {text: (absorbed,)})
    site = SiteTable("a", "ffn", 0, (8, 8), {text: damage}, reach)
    whole = JointDamage(1.0, 0.0, 0.1, 0.1, 1.0, 0.1, None, 0.0, 1.0, 0.01, 0.1, 0.0, None, 0.0)
    table = SensitivityTable("m", "t", "token", 1000, 3.0, 9.0, (site,), {"p": whole}, 9)
    assert said in _afterwards(table, "p", {"a": text}, {"a": 8})
    assert _afterwards(table, "p", {"a": text}, {"a": 0}) == ""
    sentences = _afterwards(replace(table, unit="sentence"), "p", {"a": text}, {"a": 8})
    assert "perplexity" not in sentences
