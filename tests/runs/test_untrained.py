"""Runs that train nothing: the cost of quantisation, without an adapter or with another run's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from helpers.sensitivity import all_curvature
from transformers import AutoModelForCausalLM

from lowbit.core.errors import RunError, UserError
from lowbit.core.execution import Execution
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import BLOCK_ROLES, Plan, Rounding, RunSpec, TaskSpec, TrainSpec
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.planner.budget import check_smallest_plan, headroom
from lowbit.planner.budget_plan import BudgetPlan
from lowbit.planner.options import uniform_solution
from lowbit.planner.planner import make_plan
from lowbit.planner.request import PlanRequest
from lowbit.runs.build import memory_inputs, planned_sites, site_choices
from lowbit.runs.cached_scores import untrained_scores
from lowbit.runs.device import cpu_machine
from lowbit.runs.export_model import export_model
from lowbit.runs.prepare import prepare_run
from lowbit.runs.record import ADAPTER
from lowbit.runs.run import run
from lowbit.runs.store import Scores, find_run
from lowbit.sensitivity.calibration import calibration_text
from lowbit.sensitivity.measure import sensitivity_table
from lowbit.sensitivity.open_model import merged_run
from lowbit.sensitivity.table import Calibration, MeasureRequest, SensitivityTable

Folder = Callable[[str], Path]
CPU = Execution(device="cpu", threads=1)


def table_of(
    spec: RunSpec, request: MeasureRequest, tokens: int, at: Path | None = None
) -> SensitivityTable:
    """Measured, or read from the cache."""
    return sensitivity_table(prepare_run(spec), request, Calibration(tokens, at), lambda *a: None)


def plan_of(spec: RunSpec, request: PlanRequest) -> BudgetPlan:
    return make_plan(prepare_run(spec), cpu_machine(CPU), request, lambda *a: None)


@pytest.fixture
def spec(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunSpec:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    task = TaskSpec(str(tiny_text), window=24)
    train = TrainSpec(compute="fp32", steps=3, lr=0.05, batch=4)
    return RunSpec(str(tiny_model("llama")), task, Plan("own", "bf16", rank=2), train, 0)


def scores_in(folder: Path) -> Scores:
    run = find_run(folder)
    assert run is not None
    return run.scores


def moved(spec: RunSpec, adapter: str, text: str = "int3@16") -> RunSpec:
    return replace(spec, plan=Plan("moved", text, embedding="bf16", adapter=adapter))


def test_a_bare_base_scores_what_evaluate_says(spec: RunSpec, tmp_path: Path) -> None:
    bare = moved(spec, "none")
    record = run(bare, tmp_path / "a", CPU)
    found = untrained_scores(prepare_run(bare), cpu_machine(CPU))
    assert np.allclose(scores_in(tmp_path / "a").sum, found.sums, rtol=1e-5)
    assert (record.trainable, record.bytes.adapters) == (0, 0)
    assert record.bytes.stored == found.stored
    assert not (tmp_path / "a" / ADAPTER).exists()


def test_an_adapter_scores_the_same_on_its_own_base_in_another_run(
    spec: RunSpec, tmp_path: Path
) -> None:
    home = run(spec, tmp_path / spec.name, CPU)
    guest = moved(spec, "own", "bf16")
    record = run(guest, tmp_path / guest.name, CPU)
    own, transplanted = scores_in(tmp_path / spec.name), scores_in(tmp_path / guest.name)
    assert np.allclose(own.sum, transplanted.sum, rtol=1e-5)
    assert record.bytes == home.bytes
    coarse = moved(spec, "own", "int2@16")
    worse = run(replace(coarse, plan=replace(coarse.plan, name="w")), tmp_path / "w", CPU)
    assert worse.metrics["loss"] > home.metrics["loss"]
    assert worse.bytes.adapters == home.bytes.adapters


def test_the_run_of_a_transplanted_adapter_must_exist(spec: RunSpec, tmp_path: Path) -> None:
    guest = moved(spec, "own")
    with pytest.raises(RunError, match="has not been run here"):
        run(guest, tmp_path / guest.name, CPU)
    run(spec, tmp_path / spec.name, CPU)
    shutil.rmtree(tmp_path / spec.name / ADAPTER)
    with pytest.raises(RunError, match="no adapter any more"):
        run(guest, tmp_path / guest.name, CPU)


# --- merged, then stored --------------------------------------------------------------------------


def merged(
    spec: RunSpec, text: str, name: str = "merged", rounding: Rounding = "nearest"
) -> RunSpec:
    plan = Plan(name, text, embedding="fp32", adapter="own", merge=True, rounding=rounding)
    return replace(spec, plan=plan)


def saved_as(folder: Path, to: Path, dtype: torch.dtype) -> str:
    """A copy of a model folder in another type."""
    shutil.copytree(folder, to)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.save_pretrained(to)
    return str(to)


def test_a_merged_run_in_full_precision_scores_what_was_trained(
    spec: RunSpec, tmp_path: Path
) -> None:
    """Also where the adapter was trained on a quantised base: it is added to the decoded one."""
    spec = replace(spec, model=saved_as(Path(spec.model), tmp_path / "fp32", torch.float32))
    spec = replace(spec, plan=Plan("own", "int4@16", embedding="fp32", rank=2))
    home = run(spec, tmp_path / spec.name, CPU)
    record = run(merged(spec, "fp32"), tmp_path / "merged", CPU)
    own, again = scores_in(tmp_path / spec.name), scores_in(tmp_path / "merged")
    assert np.allclose(own.sum, again.sum, rtol=1e-4)
    assert (record.trainable, record.bytes.adapters) == (0, 0)
    assert {site.final_rank for site in record.sites} == {0}
    assert record.facts.weights == home.facts.weights, "pairs with the runs of the same model"
    assert not list((tmp_path / "merged").glob("*.partial"))


def test_a_merged_run_stores_the_merged_weights_in_its_own_formats(
    spec: RunSpec, tmp_path: Path
) -> None:
    run(spec, tmp_path / spec.name, CPU)
    record = run(merged(spec, "int3@16"), tmp_path / "merged", CPU)
    export_model(tmp_path / spec.name, tmp_path / "plain")
    plain = replace(
        spec,
        model=saved_as(tmp_path / "plain", tmp_path / "bf16", torch.bfloat16),
        plan=Plan("p", "int3@16", embedding="fp32", adapter="none"),
    )
    expected = untrained_scores(prepare_run(plain), cpu_machine(CPU))
    assert np.allclose(scores_in(tmp_path / "merged").sum, expected.sums, rtol=1e-5)
    assert {site.format for site in record.sites if site.depth is not None} == {"int3@16"}
    calibrated = merged(spec, "int3@16", "c", "calibrated")
    other = run(calibrated, tmp_path / "c", CPU)
    assert other.bytes.stored == record.bytes.stored
    assert other.metrics["loss"] != record.metrics["loss"]


def test_what_cannot_be_merged_says_why(
    spec: RunSpec, tiny_model: Folder, tiny_jsonl: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="beside `adapter`, the name of the plan"):
        Plan("merged", merge=True)
    with pytest.raises(UserError, match="beside `adapter`, the name of the plan"):
        Plan("merged", adapter="none", merge=True)
    with pytest.raises(RunError, match="has not been run here"):
        run(merged(spec, "int3@16"), tmp_path / "merged", CPU)
    there = replace(spec, model=str(tiny_model("bert")), task=TaskSpec(str(tiny_jsonl)))
    run(there, tmp_path / there.name, CPU)
    with pytest.raises(UserError, match="only language models are merged"):
        run(merged(there, "int3@16"), tmp_path / "merged", CPU)


def test_a_plan_that_merges_is_another_run(spec: RunSpec) -> None:
    here = merged(spec, "int3@16")
    apart = replace(here, plan=replace(here.plan, merge=False))
    assert here.fingerprint != apart.fingerprint
    assert "merge" not in apart.declared()["plan"]


def test_a_plan_that_trains_says_nothing_of_adapters(spec: RunSpec) -> None:
    assert "adapter" not in spec.declared()["plan"]
    assert moved(spec, "own").fingerprint != moved(spec, "none").fingerprint


# --- measured where a run stands ------------------------------------------------------------------


def test_the_transplanted_gap_is_predicted_from_the_adapter(spec: RunSpec, tmp_path: Path) -> None:
    """What storing does to the loss on calibration text is what it does to the same text scored."""
    run(spec, tmp_path / spec.name, CPU)
    guest = moved(spec, "own")
    home, away = (
        untrained_scores(prepare_run(one), cpu_machine(CPU), "calibration", tmp_path / spec.name)
        for one in (moved(spec, "own", "bf16"), guest)
    )
    _, formats, _ = site_choices(prepare_run(guest).with_plan(guest.plan))
    asked = MeasureRequest(("int3@16",), (1, 2), 2, joint=(("moved", tuple(formats.items())),))
    table = table_of(guest, asked, 132, tmp_path / spec.name)
    own = table_of(guest, asked, 132)
    assert table.whole["moved"].loss == pytest.approx(away.value - home.value, rel=0.02, abs=1e-5)
    assert table.loss == pytest.approx(home.value, rel=1e-4)
    assert table.loss < own.loss, "the adapter is in the weights"
    assert table.whole["moved"] == table.whole["int3@16"]
    merged, sites, base = merged_run(spec, prepare_run(spec), tmp_path / spec.name)
    assert {site.name for site in sites} == set(base)
    assert merged.training is False


def test_a_classifier_is_measured_where_a_run_gave_it_a_head(
    spec: RunSpec, tiny_model: Folder, tiny_jsonl: Path, tmp_path: Path
) -> None:
    there = replace(spec, model=str(tiny_model("bert")), task=TaskSpec(str(tiny_jsonl)))
    run(there, tmp_path / "bert", CPU)
    asked = MeasureRequest(("int4@16", "int8@16"), (1, 2), 2, walk=True)
    table = table_of(there, asked, 60, tmp_path / "bert")
    assert table.unit == "sentence"
    assert not [site for site in table.sites if site.name.startswith("classifier")]
    whole = table.whole["int4@16"]
    assert whole.kl > table.whole["int8@16"].kl > 0
    assert 0 < whole.gauss_newton < 10 * whole.kl
    run(replace(there, plan=Plan("few", "int4@16", rank=2)), tmp_path / "few", CPU)
    with pytest.raises(UserError, match="trained in few bits already"):
        table_of(there, asked, 60, tmp_path / "few")
    with pytest.raises(UserError, match="no finished run"):
        table_of(there, asked, 60, tmp_path / "none")
    with pytest.raises(UserError, match=r"not of .*, which is to be measured"):
        table_of(spec, asked, 60, tmp_path / "bert")


def test_a_classifiers_plan_keeps_to_its_budget_head_included(
    spec: RunSpec, tiny_model: Folder, tiny_jsonl: Path, tmp_path: Path
) -> None:
    there = replace(spec, model=str(tiny_model("bert")), task=TaskSpec(str(tiny_jsonl)))
    run(there, tmp_path / "bert", CPU)
    formats, at = ("int8@16", "int3@16"), tmp_path / "bert"
    with pytest.raises(UserError, match="a budget of 1,000 bytes: the smallest plan has") as said:
        make_plan(
            prepare_run(there),
            cpu_machine(CPU),
            PlanRequest(1000, 0, formats, (2, 4), 60, at),
            lambda *a: None,
        )
    least = int(re.search(r"has ([\d,]+)", str(said.value))[1].replace(",", ""))  # type: ignore[index]
    budget = round(1.3 * least)
    found = make_plan(
        prepare_run(there),
        cpu_machine(CPU),
        PlanRequest(budget, 0, formats, (2, 4), 60, at),
        lambda *a: None,
    )
    best = found.candidates[0]
    even = [c.remaining for c in found.candidates if c.plan.name.startswith("uniform")]
    assert best.remaining <= min(even), "by what was seen on text that nothing was costed on"
    assert best.change.kl >= 0.0
    record = run(replace(there, plan=best.plan), tmp_path / "best", CPU)
    assert record.bytes.stored == best.solution.stored + found.other <= budget
    whole = make_plan(
        prepare_run(there),
        cpu_machine(CPU),
        PlanRequest(10**9, 0, formats, (2, 4), 60, at),
        lambda *a: None,
    )
    (only,) = whole.candidates
    assert (whole.fits_in_full, only.plan.format, only.plan.rank) == (True, "bf16", 4)
    assert (only.change.kl, only.change.loss) == (0.0, 0.0)
    # What is said before anything is measured is what is found when everything is.
    exact = make_plan(
        prepare_run(there),
        cpu_machine(CPU),
        PlanRequest(least, 0, formats, (2, 4), 60, at),
        lambda *a: None,
    )
    assert exact.candidates[0].solution.stored + exact.other == least
    with pytest.raises(UserError, match=r"of which .* are activations"):
        make_plan(
            prepare_run(there),
            cpu_machine(CPU),
            PlanRequest(10**9, 1000, formats, (2, 4), 60, at),
            lambda *a: None,
        )


@pytest.mark.parametrize("residency", ["packed", "decoded"])
@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_a_plans_training_memory_is_the_ledgers(
    spec: RunSpec, residency: Literal["packed", "decoded"], compute: Literal["fp32", "bf16"]
) -> None:
    """Whatever ranks the plan has that the question came with: they are what is asked about."""
    here = replace(CPU, residency=residency)
    there = replace(spec, train=replace(spec.train, compute=compute, batch=10**6))
    formats, ranks = ("int8@16", "int3@16"), (2, 4)
    asked = MeasureRequest(formats, ranks, 0, uniform=False, exact=False, costed=True)
    table = table_of(spec, asked, 60)
    strange = replace(there, plan=replace(there.plan, rank=10**6))
    wanted = PlanRequest(10**9, 0, formats, ranks, 60)
    check_smallest_plan(prepare_run(strange), wanted)
    found = headroom(prepare_run(strange), cpu_machine(here, compute), wanted, table)
    adapted = {site.name: site.reach is not None for site in table.sites}
    chosen = uniform_solution(found.choices, adapted, "int3@16", 4)
    assert chosen is not None
    plan = Plan("u", "int3@16", embedding="int3@16", rank=4)
    start = prepare_run(there).with_plan(plan)
    count = planned_sites(start).count
    need = memory_inputs(start, count, here, compute)
    assert chosen.training + found.overhead == need.estimate().total
    assert chosen.stored + found.other == count.stored


def test_a_plan_that_cuts_its_ranks_is_predicted_at_what_it_cuts_to(spec: RunSpec) -> None:
    cut = Plan("cut", "int4@16", rank=8, schedule=RankSchedule("adalora", target=2))
    _, _, ranks = site_choices(prepare_run(spec).with_plan(cut))
    assert set(ranks.values()) == {0, 2}
    _, _, ranks = site_choices(prepare_run(spec).with_plan(replace(cut, schedule=RankSchedule())))
    assert set(ranks.values()) == {0, 8}


def test_kfac_agrees_with_fisher_where_a_layer_sees_few_of_the_tokens(
    spec: RunSpec, tiny_model: Folder, tiny_jsonl: Path, tmp_path: Path
) -> None:
    """A pooler is given one row a sentence: for random errors both say the same on average."""
    there = replace(spec, model=str(tiny_model("bert")), task=TaskSpec(str(tiny_jsonl)))
    run(there, tmp_path / "bert", CPU)
    start = prepare_run(there)
    merged, sites, _ = merged_run(there, start, tmp_path / "bert")
    batches, _ = calibration_text(start, 62)
    found = all_curvature(MeasuredModel(merged, sites, batches, "classification"))
    for site in sites:
        factors = found.factors[site.name]
        if site.role in BLOCK_ROLES and factors.inputs is not None and factors.outputs is not None:
            trace = float(factors.inputs.trace() * factors.outputs.trace())
            assert trace == pytest.approx(float(found.fisher[site.name].sum()), rel=1.0), site.name
    assert any("pooler" in site.name for site in sites)
