"""Makes every forecast that a study declares and that is not on file yet.

Each forecast has its own process, so several can be made at a time. Forecasts that start from the
same run share one table of measurements, which is cached. The first forecast of each table
is started early and the others late, so that they read the cache and do not measure again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.runs.record import ADAPTER
from lowbit.runs.store import ResultsFolder, find_run
from lowbit.runs.workers.process import Running, start_showing, unwrap
from lowbit.study import forecasts
from lowbit.study.forecasts import ForecastPoint, PointForecast
from lowbit.study.study import Study

OnNote = Callable[[str], None]
"""Called with a sentence about what was done."""


def predict_study(study: Study, jobs: int, show: bool, on_note: OnNote) -> None:
    """Make the missing forecasts of a study, `jobs` at a time."""
    points = forecasts.points(study)
    if not points:
        raise UserError(f"{study.folder}: this study has no [[forecast]]")
    waiting = _first_of_each_table_first(
        [(f"[{i}/{len(points)}] {point.name}", point) for i, point in enumerate(points, 1)]
    )
    running: dict[Connection, tuple[str, ForecastPoint, int, Running[PointForecast]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                label, point = waiting.pop(0)
                process = _start(study, label, point, show and jobs == 1, on_note)
                if process is not None:
                    running[process.pipe] = (label, point, _finished_runs(study, point), process)
            # With an empty list `wait` would block for ever.
            for pipe in wait(list(running)) if running else ():
                label, point, finished, process = running.pop(pipe)  # type: ignore[call-overload]
                _write(study, label, point, finished, process, on_note)
    finally:
        for *_, process in running.values():
            process.stop()


def _first_of_each_table_first(
    todo: Sequence[tuple[str, ForecastPoint]],
) -> list[tuple[str, ForecastPoint]]:
    """Put the points whose table another point measures last: then the table is cached."""
    tables: set[object] = set()
    first: list[tuple[str, ForecastPoint]] = []
    cached: list[tuple[str, ForecastPoint]] = []
    for label, point in todo:
        table = (point.at, point.runs[0].task, point.forecast.tokens, point.forecast.curved)
        (cached if table in tables else first).append((label, point))
        tables.add(table)
    return first + cached


def _start(
    study: Study, label: str, point: ForecastPoint, show: bool, on_note: OnNote
) -> Running[PointForecast] | None:
    """Start a forecast; None if it is on file, or if the run it starts from is missing."""
    at = None if point.at is None else study.run_folder(point.at)
    if forecasts.read_forecast(ResultsFolder(study.results), point) is not None:
        return None
    if at is not None and (reason := _why_not_ready(at, point)):
        on_note(f"{label}: {reason}")
        return None
    return start_showing(forecast_point, show, point, at, study.execution)


def _write(
    study: Study,
    label: str,
    point: ForecastPoint,
    finished: int,
    process: Running[PointForecast],
    on_note: OnNote,
) -> None:
    forecast = replace(unwrap(process.answer()), after=finished)
    forecasts.write_forecast(forecasts.forecast_path(study, point), forecast)
    late = f", after {finished} of the runs it predicts had ended" if finished else ""
    on_note(f"{label}  {len(forecast.plans)} plans, {forecast.passes:.0f} forward passes{late}")


def _finished_runs(study: Study, point: ForecastPoint) -> int:
    """Finished runs among those that a point predicts; 0 if the forecast is made in time."""
    plans = {(run.model, run.task.display_name, run.plan.name) for run in point.runs}
    runs_of_plans = (r for r in study.runs if (r.model, r.task.display_name, r.plan.name) in plans)
    results = ResultsFolder(study.results)
    return sum(results.find(run.name) is not None for run in runs_of_plans)


def _why_not_ready(at: Path, point: ForecastPoint) -> str:
    """Why the run that a point starts from cannot be used; "" where it can."""
    finished = find_run(at)
    record = None if finished is None else finished.record
    if record is None:
        return f"waits for the run {at.name}"
    if point.at is not None and record.fingerprint != point.at.fingerprint:
        return f"{at.name} was recorded with other settings; --rerun replaces it"
    if record.status != "done":
        return f"{at.name} diverged"
    return "" if (at / ADAPTER).is_dir() else f"{at.name} has no adapter any more: --rerun it"


def forecast_point(
    point: ForecastPoint,
    at: Path | None,
    execution: Execution,
    on_progress: Callable[[str, int, int], None],
) -> PointForecast:
    """Make one forecast."""
    # Imports torch, which this module must not.
    from lowbit.study.make_forecast import forecast_plans

    return forecast_plans(point, at, execution, on_progress)
