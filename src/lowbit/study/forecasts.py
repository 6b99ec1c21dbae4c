"""Which gaps of a study are predicted, at which point, and the predictions' files. No torch.

A point is where the model stands while plans are predicted: the base alone, or the base with the
adapter of one 16-bit run. `results/forecasts/KIND-PART-RUN.json` holds all plans of one point.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lowbit.core.files import write_atomic
from lowbit.core.spec import BARE, Plan, RunSpec
from lowbit.quant.formats import is_cast, parse
from lowbit.runs.store import FORECAST_FOLDER, ResultsFolder
from lowbit.sensitivity.table import JointDamage
from lowbit.study.schema import Forecast
from lowbit.study.study import Study

VERSION = 4
"""Raised whenever the same plan would be predicted differently."""


@dataclass(frozen=True)
class Point:
    """Where a model stands while plans are predicted: at `at`'s adapter, or at its base (None)."""

    forecast: Forecast
    at: RunSpec | None
    runs: tuple[RunSpec, ...]
    """Of the plans that are predicted here, with the point's seed."""

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
    """The prediction of one plan: the damage of all its sites at once, the share of it that
    training should leave, and the bits of its smallest format."""

    plan: str
    whole: JointDamage
    left: float
    bits: float


@dataclass(frozen=True)
class PointForecast:
    """The predictions at one point. `units`: tokens or examples of calibration. `after`: how many
    of the predicted runs had ended already when the prediction was made."""

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


def sixteen(plan: Plan) -> bool:
    """Whether a plan stores all it names in a plain floating-point type."""
    texts = [plan.format, plan.embedding or plan.format, *(r.format or "bf16" for r in plan.rule)]
    return all(is_cast(parse(text)) for text in texts)


def moved(plan: Plan) -> bool:
    """Whether its adapter was trained on another base than its own."""
    return plan.adapter not in ("", BARE, plan.name)


def partner(study: Study, forecast: Forecast, run: RunSpec) -> RunSpec | None:
    """The 16-bit run that a run's gap is measured from: the run whose adapter it takes, else the
    16-bit run of the same rank.

    Where adapters are scored on another text, the score of that run on the same text."""
    part = next(p for p in study.parts if p.name == forecast.part)
    candidates = [
        r
        for r in (study.runs if moved(run.plan) else study.part(part))
        if (r.model, r.task, r.seed) == (run.model, run.task, run.seed)
    ]
    if moved(run.plan):
        return next((r for r in candidates if r.plan.name == run.plan.adapter), None)
    bare = run.plan.adapter == BARE
    alike = [r for r in candidates if sixteen(r.plan) and (r.plan.adapter == BARE) == bare]
    alike = [r for r in alike if not moved(r.plan)]
    same = [r for r in alike if r.plan.rank == run.plan.rank]
    return next(iter(same or alike), None)


def predicted_runs(study: Study, forecast: Forecast) -> list[RunSpec]:
    """The runs of a forecast's part that are not in 16 bits."""
    part = next(p for p in study.parts if p.name == forecast.part)
    return [run for run in study.part(part) if not sixteen(run.plan)]


def points(study: Study) -> list[Point]:
    """Where the study's forecasts are made, each with the plans that are predicted there.

    A plan of two parts is predicted once for each kind, by the forecast that comes first.
    """
    result: list[Point] = []
    covered: set[tuple[str, ...]] = set()
    for forecast in study.forecasts:
        cells: set[tuple[str, ...]] = set()
        groups: dict[str, list[RunSpec]] = {}
        places: dict[str, RunSpec | None] = {}
        for run in predicted_runs(study, forecast):
            if run.plan.on:  # predicted where it was trained
                continue
            other = None if forecast.kind == "untrained" else partner(study, forecast, run)
            if forecast.kind != "untrained" and (other is None or run.seed not in forecast.seeds):
                continue
            cell = (forecast.kind, run.model, run.task.called, run.plan.name)
            if cell in covered:
                continue
            cells.add(cell)
            key = other.name if other else f"{run.model} {run.task.called}"
            groups.setdefault(key, []).append(run)
            places[key] = other
        covered |= cells
        for key, runs in groups.items():
            by_plan = {run.plan.name: run for run in runs}
            result.append(Point(forecast, places[key], tuple(by_plan.values())))
    return result


def path_of(study: Study, point: Point) -> Path:
    return study.results / FORECAST_FOLDER / f"{point.name}.json"


def write(path: Path, forecast: PointForecast) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(asdict(forecast), indent=1) + "\n").encode())


def read_forecast(folder: ResultsFolder, point: Point) -> PointForecast | None:
    """The prediction at a point; None where there is none, or one of other settings."""
    body = folder.forecast(point.name)
    forecast = None if body is None else point_forecast(body)
    return forecast if forecast is not None and forecast.about == point.about else None


def point_forecast(body: dict[str, Any]) -> PointForecast:
    """The prediction that a forecast's file holds."""
    plans = tuple(_plan_forecast(each) for each in body["plans"])
    return PointForecast(**{**body, "anchor": _plan_forecast(body["anchor"]), "plans": plans})


def _plan_forecast(body: dict[str, Any]) -> PlanForecast:
    return PlanForecast(**{**body, "whole": JointDamage(**body["whole"])})
