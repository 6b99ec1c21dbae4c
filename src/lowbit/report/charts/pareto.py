"""Score over stored bytes, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lowbit.report.charts.base import (
    SIZE_LABEL,
    Chart,
    framed,
    legend_below,
    plan_colour,
    values_of,
)
from lowbit.report.figures import pareto
from lowbit.report.figures.pareto import Pareto, axis_title, axis_value
from lowbit.study.cells import Setting
from lowbit.study.schema import StudyPart


def chart(part: StudyPart, setting: Setting) -> Chart:
    """Always shown; the caption lists the plans that diverged."""
    points, plans = pareto.data(setting), [cell.plan for cell in setting.cells]
    diverged = f" Diverged, no score: {', '.join(points.diverged)}." if points.diverged else ""
    direction = "Lower" if setting.better == "lower" else "Higher"
    caption = (
        f"{direction} and further left is better. Small dots are seeds, bars 95 % intervals of the "
        f"mean over seeds. The stairs join the plans that no other plan beats in both.{diverged}"
    )
    return Chart("Score and stored bytes", caption, spec(points, plans) if points.points else None)


def spec(data: Pareto, plans: Sequence[str]) -> dict[str, Any]:
    """Means with colour and shape, seeds as small dots, the front as stairs.

    `plans` lists all plans of the setting, so that a plan has the same colour in every chart.
    """
    points = [
        {
            "plan": p.plan,
            "bytes": p.bytes,
            "value": axis_value(data.metric, p.mean),
            "front": p.front,
        }
        for p in data.points
    ]
    reach = [
        {"plan": p.plan, "bytes": p.bytes, "low": axis_value(data.metric, p.interval[0]),
         "high": axis_value(data.metric, p.interval[1])}
        for p in data.points if p.interval is not None
    ]  # fmt: skip
    seeds = [
        {"plan": p.plan, "bytes": p.bytes, "value": axis_value(data.metric, value)}
        for p in data.points
        for value in p.seeds
    ]
    x = alt.X(
        "bytes:Q",
        title="stored bytes",
        scale=alt.Scale(type="log", nice=False, padding=24),
        axis=alt.Axis(labelExpr=SIZE_LABEL, tickCount=5, grid=False),
    )
    y = alt.Y(
        "value:Q",
        title=axis_title(data.metric),
        scale=alt.Scale(zero=False, padding=16),
        axis=alt.Axis(tickCount=6),
    )
    colour = plan_colour(plans)
    base = alt.Chart(values_of(points))
    stairs = (
        base.transform_filter("datum.front")
        .mark_line(interpolate="step-after", opacity=0.6, strokeWidth=1.2)
        .encode(x, y)
    )
    means = base.mark_point(size=110, filled=True, opacity=1).encode(
        x, y, colour, _plan_shape(plans), tooltip=_tooltips(data.metric)
    )
    dots = alt.Chart(values_of(seeds)).mark_circle(size=16, opacity=0.55).encode(x, y, colour)
    bars = (
        alt.Chart(values_of(reach))
        .mark_rule(opacity=0.7)
        .encode(x, alt.Y("low:Q", title=axis_title(data.metric)), alt.Y2("high:Q"), colour)
    )
    layers = (stairs, bars, dots, means) if reach else (stairs, dots, means)
    return framed(alt.layer(*layers), "Stored bytes against " + data.metric, 320)


def _plan_shape(plans: Sequence[str]) -> alt.Shape:
    return alt.Shape("plan:N", scale=alt.Scale(domain=list(plans)), legend=legend_below())


def _tooltips(metric: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("plan:N"),
        alt.Tooltip("bytes:Q", format=",.0f"),
        alt.Tooltip("value:Q", title=metric, format=".4f"),
        alt.Tooltip("front:N", title="on the front"),
    ]
