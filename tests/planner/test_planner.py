"""A plan under a budget, from a model and its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lowbit.core.errors import UserError
from lowbit.core.spec import RunSpec
from lowbit.plan.file import to_toml
from lowbit.planner.plan_for_budget import plan_for_budget
from lowbit.planner.planner import CALIBRATED_ROUNDS
from lowbit.runs import prepare
from lowbit.runs.prepare import Prepared
from lowbit.sensitivity.by_name import measure, predict

Folder = Callable[[str], Path]
ON_CPU = {"task.window": 24, "execution.device": "cpu", "execution.threads": 1}


@pytest.fixture
def preparations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """The runs that were prepared, once each time."""
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    specs: list[RunSpec] = []
    prepare_run = prepare.prepare_run

    def counting(spec: RunSpec, instead: str = "") -> Prepared:
        specs.append(spec)
        return prepare_run(spec, instead)

    monkeypatch.setattr(prepare, "prepare_run", counting)
    return specs


def test_a_plan_prepares_the_model_and_the_data_once(
    tiny_model: Folder, tiny_text: Path, preparations: list[RunSpec]
) -> None:
    """Measuring, the budget, the candidates and the final predictions share one `Prepared`."""
    model, formats = tiny_model("llama"), ("int8@16", "int3@16")
    plan = plan_for_budget(
        model, str(tiny_text), 32_000, formats=formats, ranks=(2, 4), tokens=60, settings=ON_CPU
    )
    assert not plan.fits_in_full
    assert plan.predictions
    assert len(preparations) == 1


def test_calibrated_plans_compete_with_nearest_rounding_of_the_same_bytes(
    tiny_model: Folder, tiny_text: Path, preparations: list[RunSpec]
) -> None:
    planned = plan_for_budget(
        tiny_model("llama"), str(tiny_text), 32_000, formats=("int8@16", "int3@16"), ranks=(2,),
        tokens=60, untrained=True, rounding="calibrated", settings=ON_CPU,
    )  # fmt: skip
    plans = {candidate.plan.name: candidate for candidate in planned.candidates}
    same, nearest = plans["planned"], plans["planned, nearest rounding"]
    assert same.solution == nearest.solution
    assert same.change != nearest.change
    assert nearest.plan.rounding == "nearest"
    others = [c.plan.rounding for n, c in plans.items() if n != "planned, nearest rounding"]
    assert set(others) == {"calibrated"}
    best = planned.candidates[0]
    assert best.change.kl == min(c.change.kl for c in planned.candidates)
    assert f'rounding = "{best.plan.rounding}"' in to_toml(best.plan) or (
        best.plan.rounding == "nearest"
    )
    assert 1 <= len(planned.rounds) <= CALIBRATED_ROUNDS


def test_a_misspelt_rounding_is_told_with_the_right_names() -> None:
    with pytest.raises(UserError, match="rounding 'calibrate': it is one of nearest, calibrated"):
        plan_for_budget("demo:tiny", "demo", 1, rounding="calibrate")  # type: ignore[arg-type]


def test_predictions_and_tables_prepare_the_model_once(
    tiny_model: Folder, tiny_text: Path, preparations: list[RunSpec]
) -> None:
    model, plans = tiny_model("llama"), ["int8@16", "int3@16"]
    predict(model, str(tiny_text), plans, tokens=60, settings=ON_CPU)
    assert len(preparations) == 1
    measure(model, str(tiny_text), ["int8@16"], tokens=60, settings=ON_CPU)
    assert len(preparations) == 2
