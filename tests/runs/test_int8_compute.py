"""Runs whose frozen products are in int8: recorded as such, close to others, never mixed up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.runs.cached_scores import untrained_scores
from lowbit.runs.check import check_runs
from lowbit.runs.device import open_machine
from lowbit.runs.prepare import prepare_run
from lowbit.runs.record import Record
from lowbit.runs.run import run

Folder = Callable[[str], Path]
CPU = Execution(device="cpu", threads=1, measured="fp32")


@pytest.fixture
def spec(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunSpec:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    train = TrainSpec(compute="int8", steps=6, lr=0.05, batch=4)
    task = TaskSpec(str(tiny_text), window=24)
    return RunSpec(str(tiny_model("llama")), task, Plan("p", "int4@16", rank=2), train, 0)


def in_fp32(spec: RunSpec) -> RunSpec:
    return replace(spec, train=replace(spec.train, compute="fp32"))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_in_int8_trains_and_says_so(
    spec: RunSpec, tmp_path: Path, checkpointing: bool
) -> None:
    execution = replace(CPU, checkpointing=checkpointing)
    int8 = run(spec, tmp_path / "int8", execution)
    exact = run(in_fp32(spec), tmp_path / "fp32", execution)
    assert (int8.facts.compute, exact.facts.compute) == ("int8+fp32", "fp32")
    assert int8.metrics["loss"] != exact.metrics["loss"]
    before = untrained_scores(prepare_run(in_fp32(spec)), open_machine(CPU, "fp32")).loss
    gained = before - exact.metrics["loss"]
    assert gained > 0
    assert int8.metrics["loss"] == pytest.approx(exact.metrics["loss"], abs=gained / 4)


def test_both_residencies_give_the_same_run(spec: RunSpec, tmp_path: Path) -> None:
    records: list[Record] = []
    for residency in ("packed", "decoded"):
        execution = replace(CPU, residency=residency)
        records.append(run(spec, tmp_path / residency, execution))
    assert records[0].metrics == records[1].metrics


def test_untrained_scores_are_of_the_same_compute_type(spec: RunSpec) -> None:
    """And those of another type are not read from the cache in their place."""
    losses = []
    for each in (in_fp32(spec), spec):
        machine = open_machine(CPU, each.train.compute)
        losses.append(untrained_scores(prepare_run(each), machine).loss)
    assert losses[0] != losses[1]


def test_a_command_measures_once_what_the_other_products_are_computed_in(spec: RunSpec) -> None:
    assert check_runs([spec], replace(CPU, measured="")) in ("fp32", "bf16")
    assert check_runs([in_fp32(spec)], replace(CPU, measured="")) == ""
