"""Stored bytes by role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowbit.report.charts.base import Chart, stacked
from lowbit.report.figures import sizes
from lowbit.report.figures.sizes import STYLE, Bar
from lowbit.study.cells import Setting
from lowbit.study.schema import StudyPart

ROLE_COLOURS = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#999999", "#8a63b5")


def chart(part: StudyPart, setting: Setting) -> Chart:
    """Always shown."""
    caption = "Adapters are stored in 32 bits."
    return Chart("Stored bytes by role", caption, spec(sizes.data(setting)), wide=True)


def spec(data: Sequence[Bar]) -> dict[str, Any]:
    """Stacked bars, one per plan."""
    return stacked(data, STYLE, ROLE_COLOURS, "role", "Stored bytes by role")
