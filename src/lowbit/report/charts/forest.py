"""Gain of each plan over the control of its part."""

from __future__ import annotations

from typing import Any

import altair as alt

from lowbit.report.charts.base import Chart, framed, values_of
from lowbit.report.figures import forest
from lowbit.report.figures.forest import Forest
from lowbit.study.cells import Setting
from lowbit.study.schema import StudyPart


def chart(part: StudyPart, setting: Setting) -> Chart | None:
    """Shown if the part has a control and other plans to compare with it."""
    effects = forest.data(setting, part.control) if part.control else None
    if effects is None or not effects.effects:
        return None
    caption = (
        f"Gain over {part.control}, averaged over seeds, with its 95 % interval from resampling "
        "seeds and documents together. Exploratory: not corrected."
    )
    return Chart("Gain over the control", caption, spec(effects))


def spec(data: Forest) -> dict[str, Any]:
    """Gains over the control with their intervals."""
    rows = [
        {"plan": e.plan, "gain": e.gain, "low": e.low, "high": e.high, "seeds": e.seeds}
        for e in data.effects
    ]
    base = alt.Chart(values_of(rows)).encode(
        alt.Y("plan:N", title=None, sort=[e.plan for e in data.effects], axis=alt.Axis(ticks=False))
    )
    title = f"better than {data.control}, {data.unit}"
    tips = [
        alt.Tooltip("plan:N"),
        *(alt.Tooltip(f"{k}:Q", format="+.4f") for k in ("gain", "low", "high")),
    ]
    bars = base.mark_rule(strokeWidth=2).encode(
        alt.X("low:Q", title=title), alt.X2("high:Q"), tooltip=tips
    )
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(alt.X("gain:Q"), tooltip=tips)
    zero = alt.Chart(values_of([{"zero": 0}])).mark_rule(strokeDash=[3, 3]).encode(alt.X("zero:Q"))
    return framed(alt.layer(zero, bars, dots), "Gains over " + data.control, 28 * max(1, len(rows)))
