"""Stored bytes by role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowbit.report.charts.base import Chart, stacked
from lowbit.report.figures import sizes
from lowbit.report.figures.sizes import LOOK, Bar
from lowbit.study.cells import Setting
from lowbit.study.schema import Part

ROLE_COLOURS = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#999999", "#8a63b5")


def chart(part: Part, setting: Setting) -> Chart:
    """Always shown."""
    caption = "Stored bytes by role; adapters are kept in 32 bits."
    return Chart("Where the bytes are", caption, spec(sizes.data(setting)), wide=True)


def spec(data: Sequence[Bar]) -> dict[str, Any]:
    """One bar a plan, stacked by role."""
    return stacked(data, LOOK, ROLE_COLOURS, "role", "Stored bytes by role")
