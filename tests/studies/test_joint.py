"""The joint study as committed: its matrix, its profiles, its plans on every family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.models import opened
from scipy import stats

from lowbit.core.spec import BLOCK_ROLES
from lowbit.plan.rules import choose
from lowbit.report.figures import gradients, memory, pareto, ranks
from lowbit.study.cells import Setting, settings
from lowbit.study.execute import RunOptions, missing_jobs
from lowbit.study.results import read_results
from lowbit.study.study import Study, read_study
from lowbit.study.verdicts import Verdicts, judge

ROOT = Path(__file__).parents[2] / "studies" / "joint"
Folder = Callable[[str], Path]
FAMILIES = ("llama", "gpt2", "bert")
SIX = ("B-FP", "B-Q4", "B-Ada", "Joint-1", "Joint-2", "Joint-3")


@pytest.fixture(scope="module")
def study() -> Study:
    return read_study(str(ROOT))


def test_the_main_matrix_is_six_plans_two_tasks_six_seeds(study: Study) -> None:
    main = study.runs_of(study.parts[0])
    counted = Counter((run.plan.name, run.task.display_name) for run in main)
    assert len(main) == 72
    assert set(counted.values()) == {6}
    assert {plan for plan, _ in counted} == set(SIX)
    assert {task for _, task in counted} == {"sst2", "wikitext2"}


def test_the_laptop_and_the_full_profile_have_the_same_runs(study: Study) -> None:
    assert read_study(str(ROOT), profile="laptop") == study
    full = read_study(str(ROOT), profile="full")
    found = [run.plan for run in study.runs if run.plan.name not in PATTERNS]
    moved = {"middle two 8-bit": (5, 6), "random two 8-bit": (6, 11)}  # of twelve layers
    for ours, theirs in zip(found, (run.plan for run in full.runs), strict=True):
        if depth := moved.get(ours.name):
            ours = replace(ours, rule=(replace(ours.rule[0], depth=depth),))
        assert theirs == ours
    assert {run.task.source for run in full.runs} == {"hub"}
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


PATTERNS = {"frozen pattern", "chosen apart", "least sensitive two 8-bit"}
"""They name what was found in the laptop's model; the full profile has none of them."""


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


def test_an_ablation_changes_one_thing_of_joint_2(study: Study) -> None:
    plans = {run.plan.name: run.plan for run in study.runs}
    base = plans["Joint-2"]
    changed = {
        name: {
            f.name for f in fields(base) if getattr(plans[name], f.name) != getattr(base, f.name)
        }
        - {"name"}
        for name in next(part for part in study.parts if part.name == "ablations").plans
    }
    assert changed == {
        "B-Q4": {"embedding", "rank", "rule", "schedule"},
        "Joint-2": set(),
        "top two 8-bit": {"rule"},
        "middle two 8-bit": {"rule"},
        "random two 8-bit": {"rule"},
        "least sensitive two 8-bit": {"rule"},
        "embedding 4-bit": {"embedding"},
        "embedding 16-bit": {"embedding"},
        "all-4-bit, embedding 16-bit": {"embedding", "rank", "rule", "schedule"},
        "middle 3-bit": {"format"},
        "no double quantisation": {"format"},
        # Fixed ranks, trained from the start, at the rate of fixed ranks.
        "frozen pattern": {"rank", "rule", "schedule"},
        "chosen apart": {"rank", "rule", "schedule"},
    }


def test_a_slice_ends_before_the_next_seed_begins(study: Study) -> None:
    todo = missing_jobs(replace(study, results=Path("nowhere")), RunOptions())
    seeds = [cell.run.seed for cell in todo]
    assert seeds == sorted(seeds)
    assert len(todo) == len(study.runs)


# --- figures from the committed records -----------------------------------------------------------


@pytest.fixture(scope="module")
def verdicts(study: Study) -> Verdicts:
    return judge(read_results(replace(study, questions=())))


@pytest.fixture(scope="module", params=("sst2", "wikitext2"))
def setting(study: Study, request: pytest.FixtureRequest) -> Setting:
    runs = read_results(study).runs_of(study.parts[0])
    return next(one for one in settings(runs) if one.task == request.param)


def test_a_point_is_the_mean_score_at_the_mean_of_the_bytes(setting: Setting) -> None:
    points = {point.plan: point for point in pareto.data(setting).points}
    assert set(points) == set(SIX)
    for cell in setting.cells:
        found = list(cell.done.values())
        scores = [run.record.metrics[setting.metric] for run in found]
        point = points[cell.plan]
        assert point.mean == pytest.approx(np.mean(scores))
        assert point.bytes == pytest.approx(np.mean([run.record.bytes.stored for run in found]))
        assert point.interval is not None
        reach = STUDENT[len(scores)] * np.std(scores, ddof=1) / np.sqrt(len(scores))
        assert point.interval[1] == pytest.approx(np.mean(scores) + reach, rel=1e-3)


STUDENT = {4: 3.1824, 5: 2.7764, 6: 2.5706}


def test_the_heat_map_has_ranks_and_bits_of_the_records(setting: Setting) -> None:
    found = ranks.data(setting)
    for cell, panel in zip(setting.cells, found.panels, strict=True):
        done = [run.record for run in cell.done.values()]
        sites = [s for s in done[0].sites if s.depth is not None and s.role in BLOCK_ROLES]
        assert [c.format for c in panel.cells] == [s.format for s in sites]
        for shown, site in zip(panel.cells, sites, strict=True):
            mine = [next(s for s in r.sites if s.name == site.name).final_rank for r in done]
            assert shown.rank == pytest.approx(np.mean(mine))


def test_memory_is_that_of_the_passes(setting: Setting) -> None:
    for cell, bar in zip(setting.cells, memory.data(setting), strict=True):
        known = next(iter(cell.done.values())).isolated_cost
        if known is None:
            assert bar.total == max(record.cost.peak_bytes for record in cell.records)
        else:
            assert sum(bar.parts[1:]) == pytest.approx(known.peak_bytes)


def test_gradients_are_those_that_were_logged(setting: Setting) -> None:
    for norms in gradients.data(setting):
        cell = next(one for one in setting.cells if one.plan == norms.plan)
        found: list[float] = []
        for run in cell.done.values():
            record = run.record
            rows = [row for row in run.log if row.get("grad_norms")]
            warm = record.spec["train"]["warmup"] * max(row["step"] for row in rows)
            found += [row["grad_norms"]["0"] for row in rows if row["step"] > warm]
        assert dict(norms.points)[0] == pytest.approx(np.exp(np.mean(np.log(found))))


def test_what_is_decided_is_decided_by_the_pairs_that_are_there(verdicts: Verdicts) -> None:
    for claim in verdicts.claims:
        assert claim.gain is not None
        assert claim.other_tests is not None
        assert claim.seeds == len(claim.other_tests.by_seed)
        assert np.mean(claim.other_tests.by_seed) == pytest.approx(claim.gain.estimate)
        assert (claim.state == "unfinished") == (claim.seeds < claim.declared_seeds)


def test_mcnemar_counts_the_sentences_that_one_side_alone_had_right(
    study: Study, verdicts: Verdicts
) -> None:
    found = next(one for one in verdicts.claims if one.claim.task == "sst2")
    assert found.other_tests is not None
    runs = {run.name: run for run in read_results(study).runs}

    def right(plan: str) -> dict[int, float]:
        scores = runs[f"minilm-sst2-{plan.replace('-', '_')}-seed0"].scores
        return dict(zip(scores.example, scores.sum, strict=True))

    ours, theirs = right(found.claim.plan), right(found.claim.than)
    only_ours = sum(ours[i] > theirs[i] for i in ours)
    only_theirs = sum(ours[i] < theirs[i] for i in ours)
    first = found.other_tests.mcnemar[0]
    assert (first.only_a, first.only_b) == (only_ours, only_theirs)
    assert first.p == pytest.approx(stats.binomtest(only_ours, only_ours + only_theirs).pvalue)


def test_slices_are_balanced(study: Study) -> None:
    """A seed's runs hold every plan on every task once."""
    for seed in range(6):
        one = read_study(str(ROOT), seeds=(seed,))
        main = one.runs_of(one.parts[0])
        assert Counter((r.plan.name, r.task.display_name) for r in main) == Counter(
            (plan, task) for plan in SIX for task in ("sst2", "wikitext2")
        )
        assert ("qv" in [p.name for p in one.parts]) == (seed == 0)
