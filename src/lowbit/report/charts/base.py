"""The report's interactive charts: the figures' data drawn by altair, as plain Vega-Lite specs.

Each chart is as wide as its container and takes its text and plan colours from the page, which
knows whether the reader's scheme is light or dark. No chart has parameters: altair would number
them, and the same records would no longer give the same page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lowbit.report.figures import sizes as sizes_figure
from lowbit.report.figures.bars import Look, Stack
from lowbit.report.figures.curves import Curves, limits
from lowbit.report.figures.pareto import Pareto, axis_title, shown
from lowbit.report.figures.sizes import Bar

ROLE_COLOURS = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#999999", "#8a63b5")
_SIZE_LABEL = "datum.value ? format(datum.value, '~s') + 'B' : '0'"


def pareto(data: Pareto, plans: Sequence[str]) -> dict[str, Any]:
    """Means by colour and shape, seeds as small dots, the front as stairs.

    `plans` are all plans of the setting, so that one plan has one colour in every chart.
    """
    points = [
        {"plan": p.plan, "bytes": p.bytes, "value": shown(data.metric, p.mean), "front": p.front}
        for p in data.points
    ]
    reach = [
        {"plan": p.plan, "bytes": p.bytes, "low": shown(data.metric, p.interval[0]),
         "high": shown(data.metric, p.interval[1])}
        for p in data.points if p.interval is not None
    ]  # fmt: skip
    seeds = [
        {"plan": p.plan, "bytes": p.bytes, "value": shown(data.metric, value)}
        for p in data.points
        for value in p.seeds
    ]
    x = alt.X(
        "bytes:Q",
        title="stored bytes",
        scale=alt.Scale(type="log", nice=False, padding=24),
        axis=alt.Axis(labelExpr=_SIZE_LABEL, tickCount=5, grid=False),
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
        x, y, colour, _plan_shape(plans), tooltip=_tips(data.metric)
    )
    dots = alt.Chart(values_of(seeds)).mark_circle(size=16, opacity=0.55).encode(x, y, colour)
    bars = (
        alt.Chart(values_of(reach))
        .mark_rule(opacity=0.7)
        .encode(x, alt.Y("low:Q", title=axis_title(data.metric)), alt.Y2("high:Q"), colour)
    )
    layers = (stairs, bars, dots, means) if reach else (stairs, dots, means)
    return framed(alt.layer(*layers), "Stored bytes against " + data.metric, 320)


def curves(data: Curves) -> dict[str, Any]:
    """Thick means, thin seeds, hollow selection points."""
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


def sizes(data: Sequence[Bar]) -> dict[str, Any]:
    """A bar a plan, stacked by role."""
    return stacked(data, sizes_figure.LOOK, ROLE_COLOURS, "role", "Stored bytes by role")


def stacked(
    data: Sequence[Stack], look: Look, hues: Sequence[str], what: str, description: str
) -> dict[str, Any]:
    """A bar a plan; only the parts that some plan has are in the legend."""
    rows = [
        {"plan": bar.plan, what: part, "order": i, "bytes": size}
        for bar in data
        for i, (part, size) in enumerate(zip(look.parts, bar.parts, strict=True))
        if size
    ]
    present = [part for part in look.parts if any(row[what] == part for row in rows)]
    scale = alt.Scale(domain=present, range=[hues[look.parts.index(part)] for part in present])
    plans = [bar.plan for bar in data]
    chart = (
        alt.Chart(values_of(rows))
        .mark_bar(height={"band": 0.72})
        .encode(
            alt.X("sum(bytes):Q", title=look.axis, axis=bytes_axis()),
            alt.Y("plan:N", title=None, sort=plans, axis=alt.Axis(ticks=False)),
            alt.Color(f"{what}:N", title=None, scale=scale, legend=legend_below()),
            alt.Order("order:Q"),
            [
                alt.Tooltip("plan:N"),
                alt.Tooltip(f"{what}:N"),
                alt.Tooltip("sum(bytes):Q", title="bytes", format=",.0f"),
            ],
        )
    )
    return framed(chart, description, 28 * max(1, len(data)))


def values_of(rows: list[dict[str, Any]]) -> alt.Data:
    return alt.Data(values=rows)


def bytes_axis() -> alt.Axis:
    return alt.Axis(labelExpr=_SIZE_LABEL, tickCount=5)


def legend_below(
    symbol: str | None = None, title: str | None = None, hollow: bool = False
) -> alt.Legend:
    """Below the chart, two columns: what still fits a telephone."""
    look: dict[str, Any] = {"symbolType": symbol} if symbol else {}
    look |= {"symbolFillColor": "transparent"} if hollow else {}
    return alt.Legend(
        orient="bottom",
        columns=2,
        symbolLimit=0,
        symbolOpacity=1,
        labelLimit=140,
        title=title,
        **look,
    )


def plan_colour(plans: Sequence[str], symbol: str | None = None) -> alt.Color:
    return alt.Color("plan:N", scale=alt.Scale(domain=list(plans)), legend=legend_below(symbol))


def _plan_shape(plans: Sequence[str]) -> alt.Shape:
    return alt.Shape("plan:N", scale=alt.Scale(domain=list(plans)), legend=legend_below())


def line_colour(plans: Sequence[str]) -> alt.Color:
    return plan_colour(plans, "stroke")


def line_dash(plans: Sequence[str]) -> alt.StrokeDash:
    return alt.StrokeDash(
        "plan:N", scale=alt.Scale(domain=list(plans)), legend=legend_below("stroke")
    )


def _tips(metric: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("plan:N"),
        alt.Tooltip("bytes:Q", format=",.0f"),
        alt.Tooltip("value:Q", title=metric, format=".4f"),
        alt.Tooltip("front:N", title="on the front"),
    ]


def framed(chart: Any, description: str, height: int) -> dict[str, Any]:
    """As wide as the page allows; `description` is what a screen reader says."""
    fitted = chart.properties(
        width="container",
        height=height,
        description=description,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    return fitted.to_dict()
