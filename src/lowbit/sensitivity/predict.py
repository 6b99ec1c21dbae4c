"""Predictions for whole plans: one table, with all sites of each plan stored at once."""

from __future__ import annotations

from collections.abc import Mapping

from lowbit.core.spec import Plan
from lowbit.curvature.measured_model import OnProgress
from lowbit.runs.build import site_choices
from lowbit.runs.prepare import Prepared
from lowbit.sensitivity.measure import sensitivity_table
from lowbit.sensitivity.predictors import PlanPredictions, PredictedPlan
from lowbit.sensitivity.table import Calibration, MeasureRequest


def predict_plans(
    prepared: Prepared,
    plans: Mapping[str, Plan],
    calibration: Calibration,
    on_progress: OnProgress,
    samples: int = 0,
) -> PlanPredictions:
    """The predictions of several plans for one model and task, by the names given here.

    `samples`: draws of noise for Hutchinson and Monte Carlo, which take longest; 0 for neither.
    """
    rows = [
        PredictedPlan(name, *site_choices(prepared.with_plan(plan))[1:])
        for name, plan in plans.items()
    ]
    formats = tuple(dict.fromkeys(text for row in rows for text in row.formats.values()))
    joint = tuple((row.name, tuple(row.formats.items())) for row in rows)
    request = MeasureRequest(formats, samples=samples, joint=joint, uniform=False, exact=False)
    table = sensitivity_table(prepared, request, calibration, on_progress)
    return PlanPredictions(table, tuple(rows))
