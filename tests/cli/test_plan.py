"""The sentences about plans and predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

import pytest
from rich.console import Console

from lowbit.cli.text.planned import _how_good, _predicted_gap
from lowbit.cli.text.planned_layers import layers
from lowbit.cli.text.predicted import _after_training, _prediction, _too_little_text
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.planner.knapsack import Option, Solution
from lowbit.planner.remeasure import Round
from lowbit.sensitivity.by_name import unique_names
from lowbit.sensitivity.predictors import Prediction
from lowbit.sensitivity.table import Damage, JointDamage, RankEffect, SensitivityTable, SiteTable


@dataclass(frozen=True)
class Change:
    kl: float


@dataclass(frozen=True)
class FakeCandidate:
    """The fields of a candidate that the sentences use."""

    plan: Plan
    solution: Solution
    change: Change
    remaining: float


def candidate(name: str, cost: float, kl: float, left: float) -> FakeCandidate:
    option = Option("a", "int4@64", 8, cost, 100, 200, cost, 0.0)
    return FakeCandidate(Plan(name, "int4@64"), Solution((option,), cost - 0.001), Change(kl), left)


def test_the_distance_of_the_written_plan_to_the_optimum_is_shown() -> None:
    planned, other = (
        candidate("planned", 0.10, 0.2, 0.09),
        candidate("planned, so", 0.12, 0.2, 0.08),
    )
    alone = " ".join(_how_good([planned], planned))
    assert "at most 0.001 nats from the optimum" in alone
    assert "above it" not in alone
    assert "The plan written is predicted 0.02 nats above it." in " ".join(
        _how_good([other, planned], other)
    )


def test_the_gap_after_training_has_an_interval() -> None:
    one = candidate("planned", 0.1, 0.2, 0.08)
    words = " ".join(_how_good([one], one))
    assert "about 0.0800 nats above 16 bits at the largest rank" in words
    assert "between 0.0400 and 0.1600" in words
    assert "After training" not in " ".join(_how_good([one], one, untrained=True))


@pytest.mark.parametrize(("kl", "said"), [(0.1, True), (0.3, False)])
def test_a_uniform_plan_that_is_nearer_before_training_is_named(kl: float, said: bool) -> None:
    best, even = candidate("planned", 0.1, 0.2, 0.08), candidate("uniform int4@64 r4", 0.2, kl, 0.2)
    words = " ".join(_how_good([best, even], best))
    assert ("uniform int4@64 r4 is nearer to 16 bits (KL 0.1000 against 0.2000)" in words) == said


def test_the_gap_before_training_is_that_of_the_run_then_of_the_formulas() -> None:
    intervals = {n: Prediction(n, 0.1, 0.01, n == "kl") for n in ("fisher", "kfac", "kl")}
    (words,) = _predicted_gap(intervals, False)
    assert words.startswith("Predicted gap before training: 0.1000 nats (0.0804 to 0.1196), by run")
    assert "Fisher diagonal 0.1000 nats (0.0804 to 0.1196), K-FAC 0.1000" in words
    assert _predicted_gap({}, False) == []
    (words,) = _predicted_gap(intervals, True)
    assert words.endswith("calibration text. Formulas are left out: they are for nearest rounding.")


def test_solutions_that_were_run_are_told_with_the_corrections() -> None:
    best = candidate("planned", 0.1, 0.2, 0.08)
    first, last = (Round(best.solution, *numbers, 0.2) for numbers in ((0.1, 0.3), (0.25, 0.26)))
    once = " ".join(_how_good([best], best, [first]))
    assert "the first solution cost 0.3000 nats (predicted 0.1000)." in once
    twice = " ".join(_how_good([best], best, [first, last]))
    assert "after 1 correction of the costs, 0.2600 (predicted 0.2500)." in twice


def test_plans_of_one_name_are_shown_by_the_words_they_were_given_as() -> None:
    spec = RunSpec("m", TaskSpec("t"), Plan("returned", "int4@64"), TrainSpec(), 0)
    other = replace(spec, plan=Plan("Joint-2", "int4@64"))
    specs = unique_names({"a/returned.toml": spec, "b/returned.toml": spec, "joint-2": other})
    assert list(specs) == ["a/returned.toml", "b/returned.toml", "Joint-2"]


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (
            0.01,
            "± 0.0196 nats, more than the gap itself. About 3,842 tokens would be enough",
        ),
        (-0.0196e-4, "No realistic amount of text would be enough"),
        (0.02, None),
        (0.0, None),
    ],
)
def test_a_gap_below_its_error_comes_with_the_text_that_would_be_enough(
    gap: float, said: str | None
) -> None:
    whole = JointDamage(0.0, 0.0, 0.1, 0.1, gap, 0.1, None, 0.0, 0.1, 0.01, 0.01, 0.0, None, 0.0)
    whole = replace(whole, kl=gap, kl_spread=0.01, loss_spread=0.01)
    table = SensitivityTable("m", "t", "token", 1000, 3.0, 9.0, (), {"p": whole}, 9)
    words = _too_little_text(table, "p")
    assert words == "" if said is None else said in words


def test_a_gap_is_shown_in_perplexity_too() -> None:
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
        ("int4@64", 0.5, "about 0.5000 nats of the gap should remain"),
        ("int4@64", 0.5, "between 0.2500 and 1.0000 (28 to 1.7e+02 % of perplexity). That is 50 %"),
        ("int4@64", 0.9, "about 0.2500 nats"),
        # In the bounds study 0.042 nats of one nat remained.
        ("ternary@64", 0.9, "between 0.0417 and 0.5000"),
    ],
)
def test_the_gap_after_training_has_the_range_that_studies_showed(
    text: str, absorbed: float, said: str
) -> None:
    damage, reach = Damage(1.0, 0.0, 1.0, 1.0, None), RankEffect((8,), {text: (absorbed,)})
    site = SiteTable("a", "ffn", 0, (8, 8), {text: damage}, reach)
    whole = JointDamage(1.0, 0.0, 0.1, 0.1, 1.0, 0.1, None, 0.0, 1.0, 0.01, 0.1, 0.0, None, 0.0)
    table = SensitivityTable("m", "t", "token", 1000, 3.0, 9.0, (site,), {"p": whole}, 9)
    assert said in _after_training(table, "p", {"a": text}, {"a": 8})
    assert _after_training(table, "p", {"a": text}, {"a": 0}) == ""
    sentences = _after_training(replace(table, unit="sentence"), "p", {"a": text}, {"a": 8})
    assert "perplexity" not in sentences


def test_a_plan_of_many_matrices_is_shown_by_format(capsys: pytest.CaptureFixture[str]) -> None:
    def option(site: str, text: str) -> Option:
        return Option(site, text, 4, 0.01, 1000, 1000)

    few = [option(f"layers.{i}.up_proj", "nf4@64") for i in range(3)]
    many = few + [option(f"layers.{i}.q_proj", "nf3@64") for i in range(50)]
    Console(width=80).print(layers(Solution(tuple(few), 0.0)))
    assert "layers.2.up_proj" in capsys.readouterr().out
    Console(width=80).print(layers(Solution((*many, option("layers.9.k_proj", "nf3@64")), 0.0)))
    head, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["format", "rank", "matrices", "bytes", "predicted", "which"]
    assert first == ["nf3@64", "4", "51", "51,000", "0.5100", "q_proj", "50,", "k_proj", "1"]
    assert second == ["nf4@64", "4", "3", "3,000", "0.0300", "up_proj", "3"]
