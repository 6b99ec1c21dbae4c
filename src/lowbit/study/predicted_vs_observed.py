"""Compares predicted gaps with observed gaps, for every predicted plan that has run. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowbit.core.spec import RunSpec
from lowbit.sensitivity.predictors import NAMES, best_formula_at, predictions
from lowbit.study.cells import Setting
from lowbit.study.claims import RESAMPLES
from lowbit.study.forecasts import PlanForecast, predicted_runs, reference_run
from lowbit.study.pairing import diverged, gain_over, pairs_of
from lowbit.study.results import Results
from lowbit.study.schema import Forecast
from lowbit.study.study import Study

RESOLVED = 0.05
"""A gap is sharp if its standard error is at most this share of it. It is resolvable if also the
spread of its prediction is at most this share of it too."""
BASELINES = ("weight error", "4^-b")
TRUSTED = "trusted closed form"
PREDICTORS = (TRUSTED, *NAMES, *BASELINES)
SettingKey = tuple[str, str]
"""A setting's model and task."""


@dataclass(frozen=True)
class GapPrediction:
    """The gap that one predictor gives, and its standard error."""

    gap: float
    spread: float


@dataclass(frozen=True)
class PredictedGap:
    """One plan's gap to 16 bits, observed with its standard error, and by every predictor."""

    kind: str
    part: str
    model: str
    task: str
    plan: str
    bits: float
    observed: float
    se: float
    seed_se: float
    seeds: int
    declared: int
    """Seeds that the study declares for it; `seeds` is smaller if runs are missing."""
    documents: int
    predictions: dict[str, GapPrediction]
    expected: bool
    """Whether the study declared that its tokens can resolve this gap."""

    @property
    def unfinished(self) -> bool:
        return self.seeds < self.declared

    @property
    def single_run(self) -> bool:
        """Whether it comes from one training run; its error then does not cover other seeds."""
        return self.seeds == 1 and self.kind != "untrained"

    @property
    def sharp(self) -> bool:
        """Whether the observed gap is precise enough; never true for a single training run."""
        return not self.single_run and self.se <= RESOLVED * abs(self.observed)

    def resolvable(self, predictor: str) -> bool:
        """Whether both the observed gap and its prediction are precise enough."""
        return self.sharp and self.predictions[predictor].spread <= RESOLVED * abs(self.observed)

    @property
    def seeds_would_resolve(self) -> bool:
        """Whether more seeds could make it sharp; they do not reduce the error over documents."""
        documents = math.sqrt(max(0.0, self.se**2 - self.seed_se**2))
        return not self.sharp and documents <= RESOLVED * abs(self.observed)

    @property
    def text_factor(self) -> float:
        """The factor of scored text that would make it sharp; infinite if no text would, because
        text does not reduce the error over seeds."""
        allowed = (RESOLVED * self.observed) ** 2 - self.seed_se**2
        documents = max(0.0, self.se**2 - self.seed_se**2)
        return documents / allowed if allowed > 0 and not self.single_run else math.inf

    def relative_error(self, predictor: str) -> float:
        """Relative error of a prediction; infinite if the observed gap is zero."""
        gap = self.predictions[predictor].gap
        return gap / self.observed - 1 if self.observed else math.inf

    def interval_holds(self, predictor: str) -> bool:
        """Whether the difference is within its 95 % interval, from both errors."""
        prediction = self.predictions[predictor]
        return abs(prediction.gap - self.observed) <= 1.96 * math.hypot(self.se, prediction.spread)


@dataclass(frozen=True)
class _ForecastRun:
    """A predicted run, its 16-bit reference run, and the forecasts of its plan."""

    forecast: Forecast
    run: RunSpec
    reference: RunSpec
    forecasts: tuple[tuple[PlanForecast, PlanForecast], ...]
    """The forecasts of the plan and of the anchor, at every point."""


def predicted_gaps(results: Results) -> list[PredictedGap]:
    """The gap of every predicted plan that has run.

    A plan that was scored again on more text gives only the gap on the larger text.
    """
    groups = _settings(results)
    gaps = {
        (entry.forecast.kind, *place, entry.run.plan.name): (gap, entry.run.plan.on)
        for place, entry in _forecast_runs(results)
        if place in groups and (gap := _gap(results.study, groups[place], entry)) is not None
    }
    scored_again = {
        (kind, model, on, plan)
        for (kind, model, _, plan), (gap, on) in gaps.items()
        if on and not gap.unfinished
    }
    return [gap for key, (gap, _) in gaps.items() if key not in scored_again]


def kinds_without_runs(results: Results, gaps: Sequence[PredictedGap]) -> list[str]:
    """The kind of every gap that was predicted and has no finished pair of runs yet."""
    present = {(gap.kind, gap.model, gap.task, gap.plan) for gap in gaps}
    groups, entries = _settings(results), _forecast_runs(results)
    # A score on more text replaces the score on the first text.
    present |= {
        (entry.forecast.kind, place[0], entry.run.plan.on, entry.run.plan.name)
        for place, entry in entries
        if (entry.forecast.kind, *place, entry.run.plan.name) in present
    }
    return [
        entry.forecast.kind
        for place, entry in entries
        if (entry.forecast.kind, *place, entry.run.plan.name) not in present
        and (place not in groups or groups[place].metric == "loss")
    ]


def _settings(results: Results) -> dict[SettingKey, Setting]:
    return {(setting.model, setting.task): setting for setting in results.settings}


def _forecast_runs(results: Results) -> list[tuple[SettingKey, _ForecastRun]]:
    """The predicted runs by model and task; a plan in two parts counts for the first forecast."""
    study = results.study
    at_points = [(point.forecast, each) for point, each in results.forecasts if each is not None]
    entries: dict[tuple[str, str, str, str], _ForecastRun] = {}
    for forecast in study.forecasts:
        for run in predicted_runs(study, forecast):
            model, task, plan = run.model, run.task.display_name, run.plan.name
            if (forecast.kind, model, task, plan) in entries:
                continue
            # A run that is scored on another text was predicted on the text of its training.
            forecast_key = (forecast.kind, model, run.plan.on or task)
            forecasts = tuple(
                (plan_forecast, point_forecast.anchor)
                for declared, point_forecast in at_points
                if (point_forecast.kind, point_forecast.model, point_forecast.task) == forecast_key
                and (declared == forecast or run.plan.on)
                for plan_forecast in point_forecast.plans
                if plan_forecast.plan == plan
            )
            reference = reference_run(study, forecast, run)
            if reference is not None and forecasts:
                entry = _ForecastRun(forecast, run, reference, forecasts)
                entries[forecast.kind, model, task, plan] = entry
    return [((model, task), entry) for (_, model, task, _), entry in entries.items()]


def points_without_forecast(results: Results) -> list[str]:
    """The names of the points that have no forecast yet."""
    return [point.name for point, forecast in results.forecasts if forecast is None]


def late_forecasts(results: Results) -> list[str]:
    """The points whose forecast was made after some of their runs had ended."""
    return [
        f"{point.name} ({forecast.after} runs)"
        for point, forecast in results.forecasts
        if forecast is not None and forecast.after
    ]


def refused_pairs(results: Results) -> list[str]:
    """Predicted plans that may not be compared with their 16-bit runs, with the reasons."""
    study, groups = results.study, _settings(results)
    reasons: dict[str, None] = {}
    for forecast in study.forecasts:
        for run in predicted_runs(study, forecast):
            reference = reference_run(study, forecast, run)
            setting = groups.get((run.model, run.task.display_name))
            cells = {c.plan: c for c in setting.cells} if setting else {}
            if reference is not None and {run.plan.name, reference.plan.name} <= set(cells):
                pair = (cells[run.plan.name], cells[reference.plan.name])
                pair_reasons = pairs_of(*pair)[1]
                pair_reasons += [text for cell in pair for text in diverged(cell)]
                reasons |= {
                    f"{run.plan.name} on {run.task.display_name}: {each}": None
                    for each in pair_reasons
                }
    return list(reasons)


def _gap(study: Study, setting: Setting, entry: _ForecastRun) -> PredictedGap | None:
    forecast, plan, base = entry.forecast, entry.run.plan.name, entry.reference.plan.name
    gain = gain_over(setting, plan, base, RESAMPLES) if setting.metric == "loss" else None
    if gain is None:
        return None
    both = (study.seeds_of(each, setting.task) for each in (plan, base))
    return PredictedGap(
        kind=forecast.kind,
        part=forecast.part,
        model=setting.model,
        task=setting.task,
        plan=plan,
        bits=entry.forecasts[0][0].bits,
        observed=-gain.estimate,
        se=gain.se,
        seed_se=gain.seed_se,
        seeds=gain.seeds,
        declared=len(set.intersection(*both)),
        documents=gain.documents,
        predictions=_over_points(forecast, entry.forecasts),
        expected=plan in forecast.resolvable,
    )


def _over_points(
    forecast: Forecast, forecasts: Sequence[tuple[PlanForecast, PlanForecast]]
) -> dict[str, GapPrediction]:
    """The mean over points. Points differ in the seed, not in the calibration text."""
    at_points = [_at_point(forecast, plan, anchor) for plan, anchor in forecasts]
    means = {}
    for name in at_points[0]:
        gaps = [point[name].gap for point in at_points]
        spread = math.sqrt(float(np.mean([point[name].spread ** 2 for point in at_points])))
        over = float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        means[name] = GapPrediction(float(np.mean(gaps)), math.hypot(spread, over))
    return means


def _at_point(
    forecast: Forecast, plan: PlanForecast, anchor: PlanForecast
) -> dict[str, GapPrediction]:
    # Training removes second-order damage that the rank can reach, no first-order part (eq. 18).
    share = plan.left if forecast.kind == "adapted" else 1.0
    result = {
        name: GapPrediction(each.gap, each.spread)
        for name, each in predictions(plan.whole, share).items()
    }
    result[TRUSTED] = result[best_formula_at(plan.bits)]
    rest = anchor.left if forecast.kind == "adapted" else 1.0
    gap, spread = rest * anchor.whole.kl, rest * anchor.whole.kl_spread
    by_error = plan.whole.weight_error / anchor.whole.weight_error
    by_bits = 4.0 ** (anchor.bits - plan.bits)
    for name, ratio in zip(BASELINES, (by_error, by_bits), strict=True):
        result[name] = GapPrediction(gap * ratio, spread * ratio)
    return result
