"""`lowbit predict STUDY`: every forecast of a study that is not made yet, in words. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from lowbit.cli.console import say
from lowbit.cli.text.measured import shown
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.progress import phases
from lowbit.runs.record import ADAPTER
from lowbit.runs.store import ResultsFolder, find_run
from lowbit.runs.workers.process import Running, orphaned, start, unwrap
from lowbit.study import forecasts
from lowbit.study.study import Study


def predict(study: Study, jobs: int = 1) -> None:
    """Every forecast of a study that is not made yet, so many at a time."""
    todo = forecasts.points(study)
    if not todo:
        raise UserError(f"{study.folder}: this study has no [[forecast]]")
    waiting = _in_turn([(f"[{i}/{len(todo)}] {p.name}", p) for i, p in enumerate(todo, 1)])
    running: dict[Connection, tuple[str, forecasts.Point, int, Running]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                place, point = waiting.pop(0)
                if (begun := _begin(study, place, point, jobs)) is not None:
                    running[begun.pipe] = (place, point, _ended(study, point), begun)
            for pipe in wait(list(running)) if running else ():  # of none it would wait for ever
                _keep(study, *running.pop(pipe))  # type: ignore[call-overload]
    finally:
        for *_, left_over in running.values():
            left_over.stop()


def _in_turn(todo: Sequence[tuple[str, forecasts.Point]]) -> list[tuple[str, forecasts.Point]]:
    """What is measured where another point is comes last: by then it is known, not under way."""
    measured_keys: set[object] = set()
    first: list[tuple[str, forecasts.Point]] = []
    again: list[tuple[str, forecasts.Point]] = []
    for place, point in todo:
        key = (point.at, point.runs[0].task, point.forecast.tokens, point.forecast.curved)
        (again if key in measured_keys else first).append((place, point))
        measured_keys.add(key)
    return first + again


def _begin(study: Study, place: str, point: forecasts.Point, jobs: int) -> Running | None:
    """None where it is made already, or nothing can be measured yet."""
    at = None if point.at is None else study.place(point.at)
    if forecasts.read_forecast(ResultsFolder(study.results), point) is not None:
        return None
    if at is not None and (missing := _not_ready(at, point)):
        say(f"{place}: {missing}")
        return None
    return start(forecast_point, point, at, study.execution, shown() and jobs == 1)


def _keep(study: Study, place: str, point: forecasts.Point, ended: int, running: Running) -> None:
    found = replace(unwrap(running.answer()), after=ended)
    forecasts.write(forecasts.path_of(study, point), found)
    late = f", after {ended} runs of what it predicts" if ended else ""
    say(f"{place}  {len(found.plans)} plans, {found.passes:.0f} forward passes{late}")


def _ended(study: Study, point: forecasts.Point) -> int:
    """Runs of what is predicted at a point that have ended: none, where predictions come first."""
    plans = {(run.model, run.task.called, run.plan.name) for run in point.runs}
    runs_of_plans = (r for r in study.runs if (r.model, r.task.called, r.plan.name) in plans)
    results = ResultsFolder(study.results)
    return sum(results.find(run.name) is not None for run in runs_of_plans)


def _not_ready(at: Path, point: forecasts.Point) -> str:
    """Why nothing can be measured where a run stands; "" where it can."""
    finished = find_run(at)
    record = None if finished is None else finished.record
    if record is None:
        return f"waits for {at.name} to be run"
    if point.at is not None and record.fingerprint != point.at.fingerprint:
        return f"{at.name} was recorded with other settings; --rerun replaces it"
    if record.status != "done":
        return f"{at.name} diverged"
    return "" if (at / ADAPTER).is_dir() else f"{at.name} has no adapter any more: --rerun it"


def forecast_point(
    point: forecasts.Point, at: Path | None, execution: Execution, tell: bool
) -> forecasts.PointForecast:
    """In a process of its own."""
    from lowbit.study.make_forecast import forecast_plans

    return forecast_plans(point, at, execution, phases(tell, stop=orphaned))
