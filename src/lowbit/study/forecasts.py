"""Which gaps of a study are predicted, from where, and what was said: files, no torch.

`results/forecasts/KIND-PART-RUN.json` holds all plans that are predicted at one point: the base
alone, or the place where one 16-bit run's adapter stands.
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
from lowbit.sensitivity.table import Whole
from lowbit.study.schema import Forecast
from lowbit.study.study import Study

FOLDER = "forecasts"
VERSION = 4
"""To be raised whenever the same would be foretold differently."""


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
        """Everything that a forecast depends on: another one is another forecast."""
        runs = [run.fingerprint for run in (*self.runs, *([self.at] if self.at else []))]
        asked = self.forecast
        body = [VERSION, asked.tokens, asked.curved, asked.anchor, asked.kind, runs]
        return sha256(json.dumps(body).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Said:
    """What was foreseen of one plan: its damage all at once, what training should leave of it, the
    bits of its fewest, and what the anchor did at the same point."""

    plan: str
    whole: Whole
    left: float
    bits: float


@dataclass(frozen=True)
class Foretold:
    """One point's predictions. `units`: what they were calibrated on. `after`: how many runs of
    what is predicted had ended before it was."""

    about: str
    kind: str
    model: str
    task: str
    seed: int
    units: int
    passes: float
    anchor: Said
    plans: tuple[Said, ...]
    after: int = 0


def sixteen(plan: Plan) -> bool:
    """Whether a plan stores all it names in a plain floating-point type."""
    texts = [plan.format, plan.embedding or plan.format, *(r.format or "bf16" for r in plan.rule)]
    return all(is_cast(parse(text)) for text in texts)


def moved(plan: Plan) -> bool:
    """Whether its adapter was trained on another base than its own."""
    return plan.adapter not in ("", BARE, plan.name)


def partner(study: Study, forecast: Forecast, run: RunSpec) -> RunSpec | None:
    """The 16-bit run that a run's gap is counted from: its lender, or the like of the same rank.

    Where adapters are scored on another text, the lender's own score there."""
    part = next(p for p in study.parts if p.name == forecast.part)
    beside = [
        r
        for r in (study.runs if moved(run.plan) else study.part(part))
        if (r.model, r.task, r.seed) == (run.model, run.task, run.seed)
    ]
    if moved(run.plan):
        return next((r for r in beside if r.plan.name == run.plan.adapter), None)
    bare = run.plan.adapter == BARE
    alike = [r for r in beside if sixteen(r.plan) and (r.plan.adapter == BARE) == bare]
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
    found: list[Point] = []
    known: set[tuple[str, ...]] = set()
    for forecast in study.forecasts:
        mine: set[tuple[str, ...]] = set()
        groups: dict[str, list[RunSpec]] = {}
        where: dict[str, RunSpec | None] = {}
        for run in predicted_runs(study, forecast):
            if run.plan.on:  # foretold where it was trained
                continue
            other = None if forecast.kind == "untrained" else partner(study, forecast, run)
            if forecast.kind != "untrained" and (other is None or run.seed not in forecast.seeds):
                continue
            cell = (forecast.kind, run.model, run.task.called, run.plan.name)
            if cell in known:
                continue
            mine.add(cell)
            key = other.name if other else f"{run.model} {run.task.called}"
            groups.setdefault(key, []).append(run)
            where[key] = other
        known |= mine
        for key, runs in groups.items():
            one = {run.plan.name: run for run in runs}
            found.append(Point(forecast, where[key], tuple(one.values())))
    return found


def path_of(study: Study, point: Point) -> Path:
    return study.results / FOLDER / f"{point.name}.json"


def write(path: Path, foretold: Foretold) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(asdict(foretold), indent=1) + "\n").encode())


def made(study: Study, point: Point) -> Foretold | None:
    """The forecast of this very point; None where there is none, or one of other settings."""
    found = read(path_of(study, point))
    return found if found is not None and found.about == point.about else None


def read(path: Path) -> Foretold | None:
    """None where nothing was foretold yet."""
    if not path.is_file():
        return None
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    plans = tuple(_said(each) for each in body.pop("plans"))
    return Foretold(**{**body, "anchor": _said(body["anchor"]), "plans": plans})


def _said(body: dict[str, Any]) -> Said:
    return Said(**{**body, "whole": Whole(**body["whole"])})
