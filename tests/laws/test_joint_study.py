"""The joint study as committed: its matrix, its profiles, its plans on every family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from assemble import opened

from lowbit.plan.rules import choose
from lowbit.spec import BLOCK_ROLES
from lowbit.study import Study, read

ROOT = Path(__file__).parents[2] / "studies" / "joint"
Folder = Callable[[str], Path]
FAMILIES = ("llama", "gpt2", "bert")
SIX = ("B-FP", "B-Q4", "B-Ada", "Joint-1", "Joint-2", "Joint-3")


@pytest.fixture(scope="module")
def study() -> Study:
    return read(str(ROOT))


def test_the_main_matrix_is_six_plans_two_tasks_six_seeds(study: Study) -> None:
    main = study.part(study.parts[0])
    counted = Counter((run.plan.name, run.task.called) for run in main)
    assert len(main) == 72
    assert set(counted.values()) == {6}
    assert {plan for plan, _ in counted} == set(SIX)
    assert {task for _, task in counted} == {"sst2", "wikitext2"}


def test_the_laptop_and_the_full_profile_have_the_same_runs(study: Study) -> None:
    assert read(str(ROOT), profile="laptop") == study
    full = read(str(ROOT), profile="full")
    found = [run.plan for run in study.runs if run.plan.name not in PATTERNS]
    assert [run.plan for run in full.runs] == found
    assert {run.model for run in full.runs} == {
        "google-bert/bert-base-uncased",
        "openai-community/gpt2",
    }
    train = {(r.train.lr, r.train.epochs, r.train.accumulate, r.train.clip) for r in full.runs}
    assert train == {(2e-4, 3, 2, 1.0)}
    assert {(r.task.name, r.train.batch) for r in full.runs} == {("sst2", 8), ("wikitext2", 4)}


def test_an_update_is_scaled_by_two_at_every_rank(study: Study) -> None:
    for run in study.runs:
        assert all(run.plan.alpha_at(rank) == 2 * rank for rank in (1, 4, 6, 8, 10, 12))


PATTERNS = {"frozen pattern", "chosen apart"}
"""They name the matrices of the laptop's model; the full profile has none of them."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_plan_covers_a_model_of_every_family(
    study: Study, family: str, tiny_model: Folder
) -> None:
    sites = opened(tiny_model(family)).sites
    shallow = {"middle two 8-bit", "random two 8-bit"}  # for models of six layers
    left_out = shallow | PATTERNS
    plans = {run.plan.name: run.plan for run in study.runs if run.plan.name not in left_out}
    for name, plan in plans.items():
        choices = choose(plan, sites)
        adapted = {s.name for s in sites if choices[s.name].rank}
        blocks = {s.name for s in sites if s.role in BLOCK_ROLES}
        if name.endswith(".qv"):
            assert adapted
            assert all(any(k in n for k in ("q", "v", "c_attn")) for n in adapted)
            assert adapted < blocks
        else:
            assert adapted == blocks, name


def test_embeddings_are_stored_as_the_documents_have_it(study: Study, tiny_model: Folder) -> None:
    expected = {"B-FP": "bf16", "B-Q4": "nf4", "B-Ada": "bf16", "Joint-1": "nf4", "Joint-2": "int8",
                "Joint-3": "nf4"}  # fmt: skip
    for family in FAMILIES:
        sites = opened(tiny_model(family)).sites
        for name, wanted in expected.items():
            for suffix in ("", ".qv"):
                plan = next(r.plan for r in study.runs if r.plan.name == name + suffix)
                found = {
                    choose(plan, sites)[s.name].quant.format
                    for s in sites
                    if s.role in ("embedding", "head") and not s.fresh
                }
                assert found == {wanted}, (family, plan.name)


def test_slices_are_balanced(study: Study) -> None:
    """A seed's runs hold every plan on every task once."""
    for seed in range(6):
        one = read(str(ROOT), seeds=(seed,))
        main = one.part(one.parts[0])
        assert Counter((r.plan.name, r.task.called) for r in main) == Counter(
            (plan, task) for plan in SIX for task in ("sst2", "wikitext2")
        )
        assert ("qv" in [p.name for p in one.parts]) == (seed == 0)
