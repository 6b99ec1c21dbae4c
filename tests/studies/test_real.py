"""The study of a real model as declared: pairs differ in one thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lowbit.core.spec import Plan
from lowbit.study.study import Study, read_study

ROOT = Path(__file__).parents[2] / "studies" / "real"


@pytest.fixture(scope="module")
def study() -> Study:
    return read_study(str(ROOT))


@pytest.fixture(scope="module")
def plans(study: Study) -> dict[str, Plan]:
    return {run.plan.name: run.plan for run in study.runs}


def stored(plan: Plan) -> tuple[object, ...]:
    return plan.format, plan.embedding, plan.rounding, plan.rule


def test_a_merged_run_stores_what_the_run_beside_it_stores(plans: dict[str, Plan]) -> None:
    merged = [plan for plan in plans.values() if plan.merge]
    assert len(merged) == 8
    for plan in merged:
        name, _, how = plan.name.partition(", ")
        assert stored(plan) == stored(plans[name])
        assert plan.adapter == {"16 merged": "16", "merged again": name}[how]


def test_calibrated_plans_differ_from_nearest_ones_in_their_rounding(
    plans: dict[str, Plan],
) -> None:
    pairs = [n for n in plans if "," not in n and f"{n} calibrated" in plans]
    assert {"int5", "int4", "nf4", "nf3", "int2"} <= set(pairs)
    for name in pairs:
        nearest, calibrated = plans[name], plans[f"{name} calibrated"]
        assert replace(calibrated, name=name, rounding="nearest") == nearest


def test_every_claim_rests_on_six_seeds_and_every_question_on_three(study: Study) -> None:
    seeds = {
        (run.plan.name, run.task.display_name): {
            other.seed
            for other in study.runs
            if (other.plan.name, other.task) == (run.plan.name, run.task)
        }
        for run in study.runs
    }
    for claim in study.claims:
        assert all(len(seeds[plan, claim.task]) == 6 for plan in claim.plans), claim.text
    for question in study.questions:
        shared = set.intersection(*(seeds[plan, question.task] for plan in question.plans))
        assert len(shared) >= 3, question.text


def test_dialogues_are_in_the_chat_template(study: Study) -> None:
    tasks = {run.task for run in study.runs}
    assert {(task.name, task.chat) for task in tasks} == {
        ("wikitext2", False),
        ("dailydialog", True),
    }
