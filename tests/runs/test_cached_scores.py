"""Cached scores of untrained models equal a plain evaluation, until an input changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.runs import cached_scores
from lowbit.runs.build import build_untrained
from lowbit.runs.cached_scores import compare_with_16_bits
from lowbit.runs.comparison import Comparison, UntrainedScores
from lowbit.runs.device import cpu_machine
from lowbit.runs.prepare import prepare_run
from lowbit.train.evaluate import evaluate

Folder = Callable[[str], Path]
CPU = Execution(device="cpu")


@pytest.fixture
def spec(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunSpec:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    task = TaskSpec(str(tiny_text), window=24)
    plan = Plan("p", "int3@16", embedding="int4@16", rank=2)
    return RunSpec(str(tiny_model("llama")), task, plan, TrainSpec(compute="fp32"), 0)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every evaluation that was really made."""
    made: list[int] = []

    def counting(*arguments: Any) -> Any:
        made.append(1)
        return evaluate(*arguments)

    monkeypatch.setattr(cached_scores, "evaluate", counting)
    return made


def evaluated(spec: RunSpec, part: str = "scored") -> UntrainedScores:
    return cached_scores.untrained_scores(prepare_run(spec), cpu_machine(CPU), part)


def compared(spec: RunSpec) -> Comparison:
    return compare_with_16_bits(prepare_run(spec), cpu_machine(CPU))


def test_scores_are_those_of_the_stored_model(spec: RunSpec) -> None:
    found, start = evaluated(spec), prepare_run(spec)
    made = build_untrained(start, cpu_machine(CPU))
    assert not [p for p in made.model.parameters() if p.requires_grad]
    scores, loss = evaluate(
        made.model, start.data.parts["scored"], "language", 3, torch.device("cpu")
    )
    assert np.allclose(found.sums, [s for s, _ in scores], rtol=1e-5)
    assert list(found.counts) == [c for _, c in scores]
    assert found.value == pytest.approx(loss, rel=1e-5)


def test_cached_scores_are_reused(spec: RunSpec, looked: list[int]) -> None:
    first = evaluated(spec)
    again = evaluated(replace(spec, seed=7, plan=replace(spec.plan, name="q", rank=5)))
    assert len(looked) == 1
    assert np.array_equal(first.sums, again.sums)


@pytest.mark.parametrize("what", ["format", "embedding", "window", "weights", "part", "torn"])
def test_a_change_in_anything_that_scores_depend_on_scores_again(
    spec: RunSpec, looked: list[int], what: str, tiny_model: Folder, tmp_path: Path
) -> None:
    first = evaluated(spec)
    other, part = spec, "scored"
    if what in ("format", "embedding"):
        other = replace(spec, plan=replace(spec.plan, **{what: "int8@16"}))
    elif what == "window":
        other = replace(spec, task=replace(spec.task, window=20))
    elif what == "weights":
        other = replace(spec, model=str(tiny_model("llama-untied")))
    elif what == "part":
        part = "calibration"
    else:
        (kept,) = (tmp_path / "cache" / "evaluations").iterdir()
        kept.write_bytes(kept.read_bytes()[:-1])
    found = evaluated(other, part)
    assert len(looked) == 2
    assert np.array_equal(found.sums, first.sums) == (what == "torn")


def test_the_gap_is_paired_with_the_model_in_sixteen_bits(spec: RunSpec, looked: list[int]) -> None:
    both = compared(spec)
    assert both.gap.estimate == pytest.approx(both.plan.value - both.full_precision.value)
    assert both.gap.estimate != 0
    assert both.plan.stored < both.full_precision.stored
    plain = compared(replace(spec, plan=Plan("bf16", "bf16")))
    assert plain.gap.estimate == 0
    assert len(looked) == 2


def test_a_head_that_would_be_random_has_no_scores(
    spec: RunSpec, tiny_model: Folder, tiny_jsonl: Path
) -> None:
    bert = replace(spec, model=str(tiny_model("bert")), task=TaskSpec(str(tiny_jsonl)))
    with pytest.raises(UserError, match=r"has no 'classifier'.*lowbit adapt"):
        evaluated(bert)
