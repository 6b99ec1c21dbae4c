"""Training loss by step, and the loss on the selection split."""

from __future__ import annotations

from typing import Any

import altair as alt

from lowbit.report.charts.base import Chart, framed, line_colour, line_dash, values_of
from lowbit.report.figures import curves
from lowbit.report.figures.curves import Curves, limits
from lowbit.study.cells import Setting
from lowbit.study.schema import StudyPart


def chart(part: StudyPart, setting: Setting) -> Chart:
    """Training curves, always shown; the selection split only if its score is a loss."""
    history = curves.data(setting)
    selection = " Circles: the selection split." if history.alike else ""
    caption = "Thick: mean over seeds. Thin: single seeds." + selection
    return Chart("Training loss", caption, spec(history))


def spec(data: Curves) -> dict[str, Any]:
    """Thick lines for means, thin lines for seeds, hollow points for the selection split."""
    names = [curve.plan for curve in data.curves]
    means = [
        {"plan": c.plan, "step": step, "value": value}
        for c in data.curves
        for step, value in c.mean
    ]
    seeds = [
        {"plan": c.plan, "step": step, "value": value, "run": i}
        for c in data.curves
        for i, series in enumerate(c.seeds)
        for step, value in series
    ]
    selection = [
        {"plan": c.plan, "step": step, "value": value}
        for c in data.curves
        for step, value in (c.selection if data.alike else ())
    ]
    reach = limits(data)
    scale = alt.Scale(domain=list(reach), nice=False) if reach else alt.Scale(zero=False)
    x = alt.X("step:Q", axis=alt.Axis(grid=False, tickCount=6))
    colour = line_colour(names)
    y = alt.Y("value:Q", title="training loss", scale=scale, axis=alt.Axis(tickCount=6))
    tips = [alt.Tooltip("plan:N"), alt.Tooltip("step:Q"), alt.Tooltip("value:Q", format=".4f")]
    thin = (
        alt.Chart(values_of(seeds))
        .mark_line(strokeWidth=0.7, opacity=0.35, clip=True)
        .encode(x, y, colour, detail=["plan:N", "run:N"])
    )
    thick = (
        alt.Chart(values_of(means))
        .mark_line(strokeWidth=2, clip=True)
        .encode(x, y, colour, line_dash(names), tooltip=tips)
    )
    hollow = (
        alt.Chart(values_of(selection))
        .mark_point(size=45, strokeWidth=1.6, clip=True)
        .encode(x, y, colour, tooltip=tips)
    )
    layers = (thin, thick, hollow) if selection else (thin, thick)
    return framed(alt.layer(*layers), "Training loss by step", 320)
