"""Gain of each plan over the control of its part."""

from __future__ import annotations

from typing import Any

import altair as alt

from lowbit.report.charts.base import Chart, framed, values_of
from lowbit.report.figures import forest
from lowbit.report.figures.forest import Forest
from lowbit.study.cells import Setting
from lowbit.study.schema import Part


def chart(part: Part, setting: Setting) -> Chart | None:
    """Shown where the part has a control that other plans can be compared with."""
    effects = forest.data(setting, part.control) if part.control else None
    if effects is None or not effects.effects:
        return None
    caption = (
        f"Gain over {part.control}, averaged over seeds, with its 95 % interval over seeds and "
        "documents drawn together. Exploratory: not corrected."
    )
    return Chart("What each change does", caption, spec(effects))


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
