"""Predicted gaps next to observed ones, one for every predicted plan that was run. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowbit.core.spec import RunSpec
from lowbit.sensitivity.predictors import NAMES, best_formula_at, predictions
from lowbit.study.cells import Setting
from lowbit.study.claims import RESAMPLES
from lowbit.study.forecasts import PlanForecast, partner, predicted_runs
from lowbit.study.pairing import diverged, gain_over, pairs_of
from lowbit.study.results import Results
from lowbit.study.schema import Forecast
from lowbit.study.study import Study

RESOLVED = 0.05
"""A gap is sharp where its error and its prediction's spread are at most this share of it."""
BASELINES = ("weight error", "4^-b")
TRUSTED = "trusted closed form"
PREDICTORS = (TRUSTED, *NAMES, *BASELINES)
Place = tuple[str, str]
"""A setting by its model and task."""


@dataclass(frozen=True)
class Prediction:
    """One predictor's gap and its spread."""

    gap: float
    spread: float


@dataclass(frozen=True)
class PredictedGap:
    """One plan's gap to 16 bits: observed with its error, and predicted by every predictor."""

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
    """Seeds that the study declares for it; fewer have run where it is unfinished."""
    documents: int
    predictions: dict[str, Prediction]
    expected: bool
    """Whether the study declared beforehand that its tokens can resolve this gap."""

    @property
    def unfinished(self) -> bool:
        return self.seeds < self.declared

    @property
    def single_run(self) -> bool:
        """Whether it rests on one training run, whose error does not cover other seeds."""
        return self.seeds == 1 and self.kind != "untrained"

    @property
    def sharp(self) -> bool:
        """Whether the observed gap alone is sharp enough; one run says nothing of other seeds."""
        return not self.single_run and self.se <= RESOLVED * abs(self.observed)

    def resolvable(self, predictor: str) -> bool:
        return self.sharp and self.predictions[predictor].spread <= RESOLVED * abs(self.observed)

    @property
    def by_seeds(self) -> bool:
        """Whether more seeds could make it sharp: they do not shrink the documents' error."""
        documents = math.sqrt(max(0.0, self.se**2 - self.seed_se**2))
        return not self.sharp and documents <= RESOLVED * abs(self.observed)

    @property
    def by_text(self) -> float:
        """The factor of scored text that would make it sharp; the seeds' error does not shrink
        with text."""
        allowed = (RESOLVED * self.observed) ** 2 - self.seed_se**2
        documents = max(0.0, self.se**2 - self.seed_se**2)
        return documents / allowed if allowed > 0 and not self.single_run else math.inf

    def off(self, predictor: str) -> float:
        """Relative error of a prediction."""
        gap = self.predictions[predictor].gap
        return gap / self.observed - 1 if self.observed else math.inf

    def within(self, predictor: str) -> bool:
        """Whether prediction and observation agree within 95 % of both errors."""
        prediction = self.predictions[predictor]
        return abs(prediction.gap - self.observed) <= 1.96 * math.hypot(self.se, prediction.spread)


@dataclass(frozen=True)
class _Forecasted:
    """A plan with a prediction, a run of it, and the 16-bit run its gap is measured from."""

    forecast: Forecast
    run: RunSpec
    reference: RunSpec
    forecasts: tuple[tuple[PlanForecast, PlanForecast], ...]
    """Of the plan and of the anchor, at every point."""


def predicted_gaps(results: Results) -> list[PredictedGap]:
    """Every predicted plan that was run. Of plans that were scored again on more text, only the
    gap on the larger text."""
    groups = _settings(results)
    gaps = {
        (entry.forecast.kind, *place, entry.run.plan.name): (gap, entry.run.plan.on)
        for place, entry in _forecasted(results)
        if place in groups and (gap := _gap(results.study, groups[place], entry)) is not None
    }
    scored_again = {
        (kind, model, on, plan)
        for (kind, model, _, plan), (gap, on) in gaps.items()
        if on and not gap.unfinished
    }
    return [gap for key, (gap, _) in gaps.items() if key not in scored_again]


def without_runs(results: Results, gaps: Sequence[PredictedGap]) -> list[str]:
    """The kinds of the gaps that were predicted and have no finished pair of runs yet."""
    present = {(gap.kind, gap.model, gap.task, gap.plan) for gap in gaps}
    groups, entries = _settings(results), _forecasted(results)
    # A score on more text replaces the one on the first text.
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


def _settings(results: Results) -> dict[Place, Setting]:
    return {(setting.model, setting.task): setting for setting in results.settings}


def _forecasted(results: Results) -> list[tuple[Place, _Forecasted]]:
    """By model and task. A plan of two parts has one gap: the first forecast's."""
    study = results.study
    at_points = [(point.forecast, each) for point, each in results.forecasts if each is not None]
    entries: dict[tuple[str, str, str, str], _Forecasted] = {}
    for forecast in study.forecasts:
        for run in predicted_runs(study, forecast):
            model, task, plan = run.model, run.task.called, run.plan.name
            if (forecast.kind, model, task, plan) in entries:
                continue
            # What is scored again was predicted where it was trained.
            where = (forecast.kind, model, run.plan.on or task)
            forecasts = tuple(
                (one, each.anchor)
                for of, each in at_points
                if (each.kind, each.model, each.task) == where and (of == forecast or run.plan.on)
                for one in each.plans
                if one.plan == plan
            )
            reference = partner(study, forecast, run)
            if reference is not None and forecasts:
                entry = _Forecasted(forecast, run, reference, forecasts)
                entries[forecast.kind, model, task, plan] = entry
    return [((model, task), entry) for (_, model, task, _), entry in entries.items()]


def unpredicted(results: Results) -> list[str]:
    """Points that have no prediction yet."""
    return [point.name for point, forecast in results.forecasts if forecast is None]


def late(results: Results) -> list[str]:
    """Points that were predicted after some of their runs had ended."""
    return [
        f"{point.name} ({forecast.after} runs)"
        for point, forecast in results.forecasts
        if forecast is not None and forecast.after
    ]


def refused(results: Results) -> list[str]:
    """Predicted plans whose runs, or whose 16-bit runs, may not be compared, and why."""
    study, groups = results.study, _settings(results)
    reasons: dict[str, None] = {}
    for forecast in study.forecasts:
        for run in predicted_runs(study, forecast):
            reference = partner(study, forecast, run)
            setting = groups.get((run.model, run.task.called))
            cells = {c.plan: c for c in setting.cells} if setting else {}
            if reference is not None and {run.plan.name, reference.plan.name} <= set(cells):
                pair = (cells[run.plan.name], cells[reference.plan.name])
                why = [*pairs_of(*pair)[1], *(text for cell in pair for text in diverged(cell))]
                reasons |= {f"{run.plan.name} on {run.task.called}: {each}": None for each in why}
    return list(reasons)


def _gap(study: Study, setting: Setting, entry: _Forecasted) -> PredictedGap | None:
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
) -> dict[str, Prediction]:
    """The mean over the points' seeds; the calibration text is the same for all points."""
    at_points = [_at_point(forecast, plan, anchor) for plan, anchor in forecasts]
    means = {}
    for name in at_points[0]:
        gaps = [point[name].gap for point in at_points]
        spread = math.sqrt(float(np.mean([point[name].spread ** 2 for point in at_points])))
        over = float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        means[name] = Prediction(float(np.mean(gaps)), math.hypot(spread, over))
    return means


def _at_point(
    forecast: Forecast, plan: PlanForecast, anchor: PlanForecast
) -> dict[str, Prediction]:
    # Training takes back what the rank reaches of the second order; the first order stays (18).
    share = plan.left if forecast.kind == "adapted" else 1.0
    result = {
        name: Prediction(each.gap, each.spread)
        for name, each in predictions(plan.whole, share).items()
    }
    result[TRUSTED] = result[best_formula_at(plan.bits)]
    rest = anchor.left if forecast.kind == "adapted" else 1.0
    gap, spread = rest * anchor.whole.kl, rest * anchor.whole.kl_spread
    by_error = plan.whole.weight_error / anchor.whole.weight_error
    by_bits = 4.0 ** (anchor.bits - plan.bits)
    for name, ratio in zip(BASELINES, (by_error, by_bits), strict=True):
        result[name] = Prediction(gap * ratio, spread * ratio)
    return result
