"""The forecasts of a study: the gaps that are predicted, and their files. No torch.

A forecast point is the model from which plans are predicted: the base alone, or the base with the
adapter of one 16-bit run. `results/forecasts/KIND-PART-RUN.json` has all plans of one point.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lowbit.core.files import write_atomic
from lowbit.core.spec import BARE, Plan, RunSpec
from lowbit.quant.formats import KEEP, is_cast, parse
from lowbit.runs.store import FORECAST_FOLDER, ResultsFolder
from lowbit.sensitivity.table import JointDamage
from lowbit.study.schema import Forecast
from lowbit.study.study import Study

VERSION = 4
"""Increase whenever the same plan would be predicted differently."""


@dataclass(frozen=True)
class ForecastPoint:
    """The model from which plans are predicted: with the adapter of run `at`, or without (None)."""

    forecast: Forecast
    at: RunSpec | None
    runs: tuple[RunSpec, ...]
    """One run for each predicted plan, with the point's seed."""

    @property
    def name(self) -> str:
        first = self.runs[0]
        base = replace(first, plan=replace(first.plan, name="base"))
        return f"{self.forecast.kind}-{self.forecast.part}-{(self.at or base).name}"

    @property
    def about(self) -> str:
        """A hash of everything that the forecast depends on."""
        runs = [run.fingerprint for run in (*self.runs, *([self.at] if self.at else []))]
        forecast = self.forecast
        settings = [forecast.tokens, forecast.curved, forecast.anchor, forecast.kind]
        body = [VERSION, *settings, runs]
        return sha256(json.dumps(body).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PlanForecast:
    """The prediction of one plan.

    `whole` is the damage of all its sites together, `left` the share of it that should remain after
    training, and `bits` the bits of its smallest format.
    """

    plan: str
    whole: JointDamage
    left: float
    bits: float


@dataclass(frozen=True)
class PointForecast:
    """The predictions at one point.

    `units`: calibration tokens or examples. `after`: the number of predicted runs that had ended
    before the forecast was made.
    """

    about: str
    kind: str
    model: str
    task: str
    seed: int
    units: int
    passes: float
    anchor: PlanForecast
    plans: tuple[PlanForecast, ...]
    after: int = 0


def is_sixteen_bit(plan: Plan) -> bool:
    """Whether all formats of a plan are plain floating-point types."""
    texts = [plan.format, plan.embedding or plan.format, *(r.format or "bf16" for r in plan.rule)]
    return all(text != KEEP and is_cast(parse(text)) for text in texts)


def takes_another_adapter(plan: Plan) -> bool:
    """Whether a plan takes the adapter of another plan."""
    return plan.adapter not in ("", BARE, plan.name)


def reference_run(study: Study, forecast: Forecast, run: RunSpec) -> RunSpec | None:
    """The 16-bit run that a run's gap is measured from.

    It is the run whose adapter this run takes, else the 16-bit run of that rank. If adapters are
    scored on another text, it is that run's score on the same text.
    """
    part = next(p for p in study.parts if p.name == forecast.part)
    candidates = [
        r
        for r in (study.runs if takes_another_adapter(run.plan) else study.runs_of(part))
        if (r.model, r.task, r.seed) == (run.model, run.task, run.seed)
    ]
    if takes_another_adapter(run.plan):
        return next((r for r in candidates if r.plan.name == run.plan.adapter), None)
    bare = run.plan.adapter == BARE
    same_kind = [
        r for r in candidates if is_sixteen_bit(r.plan) and (r.plan.adapter == BARE) == bare
    ]
    same_kind = [r for r in same_kind if not takes_another_adapter(r.plan)]
    same_rank = [r for r in same_kind if r.plan.rank == run.plan.rank]
    return next(iter(same_rank or same_kind), None)


def predicted_runs(study: Study, forecast: Forecast) -> list[RunSpec]:
    """The runs of a forecast's part that are not in 16 bits.

    A merged run has other weights than its reference, so no forecast is made of it.
    """
    part = next(p for p in study.parts if p.name == forecast.part)
    runs = (run for run in study.runs_of(part) if not run.plan.merge)
    return [run for run in runs if not is_sixteen_bit(run.plan)]


def points(study: Study) -> list[ForecastPoint]:
    """The forecast points of a study, each with the plans that are predicted from it.

    A plan in two parts is predicted once for each kind, by the first forecast.
    """
    all_points: list[ForecastPoint] = []
    covered: set[tuple[str, ...]] = set()
    for forecast in study.forecasts:
        cells: set[tuple[str, ...]] = set()
        groups: dict[str, list[RunSpec]] = {}
        places: dict[str, RunSpec | None] = {}
        for run in predicted_runs(study, forecast):
            if run.plan.on:  # predicted where it was trained
                continue
            other = None if forecast.kind == "untrained" else reference_run(study, forecast, run)
            if forecast.kind != "untrained" and (other is None or run.seed not in forecast.seeds):
                continue
            cell = (forecast.kind, run.model, run.task.display_name, run.plan.name)
            if cell in covered:
                continue
            cells.add(cell)
            key = other.name if other else f"{run.model} {run.task.display_name}"
            groups.setdefault(key, []).append(run)
            places[key] = other
        covered |= cells
        for key, runs in groups.items():
            by_plan = {run.plan.name: run for run in runs}
            all_points.append(ForecastPoint(forecast, places[key], tuple(by_plan.values())))
    return all_points


def forecast_path(study: Study, point: ForecastPoint) -> Path:
    return study.results / FORECAST_FOLDER / f"{point.name}.json"


def write_forecast(path: Path, forecast: PointForecast) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(asdict(forecast), indent=1) + "\n").encode())


def read_forecast(folder: ResultsFolder, point: ForecastPoint) -> PointForecast | None:
    """The forecast of a point; None if there is none, or if it was made with other settings."""
    body = folder.forecast(point.name)
    forecast = None if body is None else parse_forecast(body)
    return forecast if forecast is not None and forecast.about == point.about else None


def parse_forecast(body: dict[str, Any]) -> PointForecast:
    """Turn the JSON of a forecast's file into a forecast."""
    plans = tuple(_plan_forecast(each) for each in body["plans"])
    return PointForecast(**{**body, "anchor": _plan_forecast(body["anchor"]), "plans": plans})


def _plan_forecast(body: dict[str, Any]) -> PlanForecast:
    return PlanForecast(**{**body, "whole": JointDamage(**body["whole"])})
