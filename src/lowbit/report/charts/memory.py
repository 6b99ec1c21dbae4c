"""Peak memory of a run, by use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowbit.report.charts.base import Chart, stacked
from lowbit.report.figures import memory
from lowbit.report.figures.memory import STYLE, Peak
from lowbit.study.cells import Setting
from lowbit.study.schema import StudyPart


def chart(part: StudyPart, setting: Setting) -> Chart | None:
    """Shown if a plan has a finished run."""
    peaks = memory.data(setting)
    caption = (
        "Measured in a few steps of each plan alone on the machine, with packed weights and freed "
        "memory returned at once. Without this measurement, the peak of the runs, undivided."
    )
    return Chart("Peak memory of a run", caption, spec(peaks)) if peaks else None


def spec(data: Sequence[Peak]) -> dict[str, Any]:
    """Stacked bars, one per plan."""
    return stacked(data, STYLE, STYLE.fills, "part", "Peak memory of a run")
