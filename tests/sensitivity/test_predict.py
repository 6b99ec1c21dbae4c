"""Predictions for whole plans."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.sensitivity import Folder

from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.runs import prepare
from lowbit.runs.prepare import prepare_run
from lowbit.sensitivity.predict import predict_plans
from lowbit.sensitivity.predictors import predictions
from lowbit.sensitivity.table import Calibration


def test_all_plans_are_predicted_from_one_table_and_one_preparation(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    task = TaskSpec(str(tiny_text), window=24)
    plans = {text: Plan(text, text, rank=2) for text in ("int8@16", "int3@16")}
    spec = RunSpec(str(tiny_model("llama")), task, plans["int8@16"], TrainSpec(steps=1), 0)
    prepared = prepare_run(spec)
    for name in ("open_checkpoint", "tokenizer_of"):
        monkeypatch.setattr(prepare, name, None)  # a second preparation would need them
    forecast = predict_plans(prepared, plans, Calibration(60), lambda phase, done, total: None)
    assert [plan.name for plan in forecast.plans] == list(plans)
    assert "int3@16" in forecast.plans[1].formats.values()
    assert {*forecast.plans[1].ranks.values()} == {0, 2}
    eight, three = (predictions(forecast.table.whole[name])["kl"].gap for name in plans)
    assert abs(eight) < abs(three)
