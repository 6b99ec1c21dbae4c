"""A plan under a budget, from a model and its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.planner import planner
from lowbit.planner.request import PlanRequest
from lowbit.runs import build, prepare
from lowbit.runs.prepare import Prepared

Folder = Callable[[str], Path]


def test_a_plan_prepares_the_model_and_the_data_once(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring, the budget, the candidates and the final predictions share one `Prepared`."""
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    specs = []

    def counting(spec: RunSpec, instead: str = "") -> Prepared:
        specs.append(spec)
        return prepared(spec, instead)

    prepared = prepare.prepare_run
    for module in (prepare, planner, build):
        monkeypatch.setattr(module, "prepare_run", counting, raising=False)
    task = TaskSpec(str(tiny_text), window=24)
    spec = RunSpec(str(tiny_model("llama")), task, Plan("own", "bf16"), TrainSpec(steps=1), 0)
    request = PlanRequest(32_000, 0, ("int8@16", "int3@16"), (2, 4), 60)
    plan = planner.make_plan(
        spec, Execution(device="cpu", threads=1), request, lambda phase, done, total: None
    )
    assert not plan.fits_in_full
    assert plan.predictions
    assert len(specs) == 1
