"""Peak memory of a run, by what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowbit.report.charts.base import Chart, stacked
from lowbit.report.figures import memory
from lowbit.report.figures.memory import LOOK, Peak
from lowbit.study.cells import Setting
from lowbit.study.schema import Part


def chart(part: Part, setting: Setting) -> Chart | None:
    """Shown where a plan's memory was measured."""
    peaks = memory.data(setting)
    caption = (
        "From a short pass of each plan alone on the machine with every matrix packed and freed "
        "memory handed back, where there was one."
    )
    return Chart("What a run takes in memory", caption, spec(peaks)) if peaks else None


def spec(data: Sequence[Peak]) -> dict[str, Any]:
    """One bar a plan, stacked by part."""
    return stacked(data, LOOK, LOOK.fills, "part", "Peak memory of a run")
