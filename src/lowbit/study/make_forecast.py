"""How a study's predictions are made: one sensitivity table at every point, for all its plans."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan
from lowbit.quant.formats import bits_of, parse
from lowbit.runs import device
from lowbit.runs.build import site_choices
from lowbit.runs.prepare import prepare_run
from lowbit.sensitivity.measure import sensitivity_table
from lowbit.sensitivity.measured_model import OnProgress
from lowbit.sensitivity.predictors import remaining_share
from lowbit.sensitivity.table import Calibration, MeasureRequest, SensitivityTable
from lowbit.study.forecasts import PlanForecast, Point, PointForecast

ANCHOR = "the anchor"


def forecast_plans(
    point: Point, at: Path | None, execution: Execution, on_progress: OnProgress
) -> PointForecast:
    """What every plan of a point will cost, from calibration text alone."""
    first, forecast = point.runs[0], point.forecast
    device.open_machine(execution, "fp32")
    prepared = prepare_run(first)
    choices = [site_choices(prepared.with_plan(run.plan)) for run in point.runs]
    anchor = Plan(ANCHOR, forecast.anchor, "bf16", first.plan.rank)
    choices.append(site_choices(prepared.with_plan(anchor)))
    # Named by what they store, so that a point that is predicted twice is measured once.
    joint = {_called(chosen): tuple(chosen.items()) for _, chosen, _ in choices}
    formats = sorted({text for _, chosen, _ in choices for text in chosen.values()})
    request = MeasureRequest(
        tuple(formats),
        joint=tuple(sorted(joint.items())),
        uniform=False,
        seed=first.seed,
        curved=forecast.curved,
        exact=False,
    )
    # Where nothing is trained, training text is text like any other that is not scored.
    more = "train" if forecast.kind == "untrained" else "spare"
    calibration = Calibration(forecast.tokens, at, ("calibration", more))
    table = sensitivity_table(prepared, request, calibration, on_progress)
    predicted = [_plan_forecast(table, *choice) for choice in choices]
    return PointForecast(
        about=point.about,
        kind=forecast.kind,
        model=first.model,
        task=first.task.called,
        seed=first.seed,
        units=table.units,
        passes=table.passes,
        anchor=predicted[-1],
        plans=tuple(predicted[:-1]),
    )


def _called(formats: dict[str, str]) -> str:
    """A choice's name among others: what it stores."""
    return sha256(json.dumps(sorted(formats.items())).encode()).hexdigest()[:12]


def _plan_forecast(
    table: SensitivityTable, name: str, formats: dict[str, str], ranks: dict[str, int]
) -> PlanForecast:
    bits = min((bits_of(parse(text)) for text in formats.values()), default=16.0)
    share = remaining_share(table, formats, ranks)
    return PlanForecast(name, table.whole[_called(formats)], share, bits)
