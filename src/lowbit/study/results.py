"""The results of a study: its records, scores and forecasts, read once per command.

A command calls `read_results(study)` once and passes the `Results` to verdicts, gaps, tables,
figures and the page. Every record is read once, packed or unpacked (`lowbit.runs.store`). Scores
and logs are read on first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from lowbit.core.spec import RunSpec
from lowbit.runs.store import FinishedRun, ResultsFolder
from lowbit.study.cells import Setting, settings
from lowbit.study.forecasts import ForecastPoint, PointForecast, points, read_forecast
from lowbit.study.schema import MAIN, StudyPart
from lowbit.study.study import Study


class Results:
    """The part of a results folder that belongs to the study as it is declared now."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.folder = ResultsFolder(study.results)

    @cached_property
    def runs(self) -> tuple[FinishedRun, ...]:
        """The finished runs whose settings are the declared ones, in the study's order."""
        pairs = ((self.folder.find(run.name), run) for run in self.study.runs)
        return tuple(
            finished
            for finished, run in pairs
            if finished is not None and finished.record.fingerprint == run.fingerprint
        )

    @cached_property
    def by_name(self) -> dict[str, FinishedRun]:
        return {run.name: run for run in self.runs}

    @property
    def missing(self) -> tuple[RunSpec, ...]:
        """The runs of the study without a finished record with these settings."""
        return tuple(run for run in self.study.runs if run.name not in self.by_name)

    @property
    def outdated(self) -> bool:
        """Whether records exist, but none has the settings that are declared now."""
        return not self.runs and any(self.folder.find(run.name) for run in self.study.runs)

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The runs grouped by model and task, then by plan."""
        return settings(self.runs)

    @property
    def parts(self) -> tuple[StudyPart, ...]:
        """The study's parts; a study that was built in code has one part with all its runs."""
        return self.study.parts or (_part_of_all_runs(self.study),)

    def runs_of(self, part: StudyPart) -> tuple[FinishedRun, ...]:
        """The finished runs of a part, in the part's own order of plans."""
        names = (run.name for run in self.study.runs_of(part))
        return tuple(self.by_name[name] for name in names if name in self.by_name)

    @cached_property
    def forecasts(self) -> tuple[tuple[ForecastPoint, PointForecast | None], ...]:
        """Every forecast point of the study with its forecast; None if it is not made yet."""
        return tuple((point, read_forecast(self.folder, point)) for point in points(self.study))


def _part_of_all_runs(study: Study) -> StudyPart:
    def distinct(values: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(values))

    return StudyPart(
        MAIN,
        study.title,
        distinct([run.plan.name for run in study.runs]),
        distinct([run.task.display_name for run in study.runs]),
        tuple(dict.fromkeys(run.seed for run in study.runs)),
    )


def read_results(study: Study) -> Results:
    """Open the results of a study; files are read on first use.

    Args:
        study: a study as `read_study` gives it.

    Returns:
        Its finished runs, settings and predictions.
    """
    return Results(study)
