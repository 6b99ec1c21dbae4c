"""The results of a study: its records, scores and predictions, read once and handed on.

A command makes one `Results` with `read_results(study)` and gives it to everything that needs the
records: verdicts, gaps, tables, figures, the page. Every record is read once, whether its run lies
in a folder or is packed (`lowbit.runs.store`); scores and logs are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from lowbit.core.spec import RunSpec
from lowbit.runs.store import FinishedRun, ResultsFolder
from lowbit.study.cells import Setting, settings
from lowbit.study.forecasts import Point, PointForecast, points, read_forecast
from lowbit.study.schema import MAIN, Part
from lowbit.study.study import Study


class Results:
    """What a study's results folder holds of the study as it is declared now."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.folder = ResultsFolder(study.results)

    @cached_property
    def runs(self) -> tuple[FinishedRun, ...]:
        """The finished runs with the declared settings, in the study's order."""
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
        """The runs of the study that have no finished record of these settings."""
        return tuple(run for run in self.study.runs if run.name not in self.by_name)

    @property
    def outdated(self) -> bool:
        """Whether there are records, all of them of other settings than declared now."""
        return not self.runs and any(self.folder.find(run.name) for run in self.study.runs)

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The runs grouped by model and task, then by plan."""
        return settings(self.runs)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The study's parts; a study made in code has one, with all its runs."""
        return self.study.parts or (_everything(self.study),)

    def of_part(self, part: Part) -> tuple[FinishedRun, ...]:
        """The finished runs of a part, in the part's own order of plans."""
        names = (run.name for run in self.study.part(part))
        return tuple(self.by_name[name] for name in names if name in self.by_name)

    @cached_property
    def forecasts(self) -> tuple[tuple[Point, PointForecast | None], ...]:
        """Every point of the study with its prediction; None where it was not predicted yet."""
        return tuple((point, read_forecast(self.folder, point)) for point in points(self.study))


def _everything(study: Study) -> Part:
    def distinct(values: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(values))

    return Part(
        MAIN,
        study.title,
        distinct([run.plan.name for run in study.runs]),
        distinct([run.task.called for run in study.runs]),
        tuple(dict.fromkeys(run.seed for run in study.runs)),
    )


def read_results(study: Study) -> Results:
    """The results of a study, nothing read yet.

    Args:
        study: a study as `read_study` gives it.

    Returns:
        Its finished runs, settings and predictions.
    """
    return Results(study)
