"""Makes the forecast of a point: one sensitivity table for all its plans."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan
from lowbit.curvature.measured_model import OnProgress
from lowbit.quant.formats import bits_of, parse
from lowbit.runs import device
from lowbit.runs.build import site_choices
from lowbit.runs.prepare import prepare_run
from lowbit.sensitivity.measure import sensitivity_table
from lowbit.sensitivity.predictors import remaining_share
from lowbit.sensitivity.table import Calibration, MeasureRequest, SensitivityTable
from lowbit.study.forecasts import ForecastPoint, PlanForecast, PointForecast

ANCHOR = "the anchor"


def forecast_plans(
    point: ForecastPoint, at: Path | None, execution: Execution, on_progress: OnProgress
) -> PointForecast:
    """Predict the damage of every plan of a point, from calibration text only."""
    first, forecast = point.runs[0], point.forecast
    device.open_machine(execution, "fp32")
    prepared = prepare_run(first)
    choices = [site_choices(prepared.with_plan(run.plan)) for run in point.runs]
    anchor = Plan(ANCHOR, forecast.anchor, "bf16", first.plan.rank)
    choices.append(site_choices(prepared.with_plan(anchor)))
    # Named by a hash of their formats, so that equal choices are measured once.
    joint = {_choice_key(formats): tuple(formats.items()) for _, formats, _ in choices}
    formats = sorted({text for _, chosen, _ in choices for text in chosen.values()})
    request = MeasureRequest(
        tuple(formats),
        joint=tuple(sorted(joint.items())),
        uniform=False,
        seed=first.seed,
        curved=forecast.curved,
        exact=False,
    )
    # Untrained models have not read the training text, so it can serve as calibration text.
    more = "train" if forecast.kind == "untrained" else "spare"
    calibration = Calibration(forecast.tokens, at, ("calibration", more))
    table = sensitivity_table(prepared, request, calibration, on_progress)
    predicted = [_plan_forecast(table, *choice) for choice in choices]
    return PointForecast(
        about=point.about,
        kind=forecast.kind,
        model=first.model,
        task=first.task.display_name,
        seed=first.seed,
        units=table.units,
        passes=table.passes,
        anchor=predicted[-1],
        plans=tuple(predicted[:-1]),
    )


def _choice_key(formats: dict[str, str]) -> str:
    """A hash of the formats of a choice, by which the table names it."""
    return sha256(json.dumps(sorted(formats.items())).encode()).hexdigest()[:12]


def _plan_forecast(
    table: SensitivityTable, name: str, formats: dict[str, str], ranks: dict[str, int]
) -> PlanForecast:
    bits = min((bits_of(parse(text)) for text in formats.values()), default=16.0)
    share = remaining_share(table, formats, ranks)
    return PlanForecast(name, table.whole[_choice_key(formats)], share, bits)
