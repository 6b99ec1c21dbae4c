"""Shared code of the page's charts: the chart dataclass, axes, legends and colours.

A chart is a plain Vega-Lite spec that altair builds from a figure's data. It is as wide as its
container. Text and plan colours come from the page, which follows a light or dark scheme.
No chart has parameters: altair numbers them, so the same records would give different pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from lowbit.report.figures.bars import BarStyle, Stack

SIZE_LABEL = "datum.value ? format(datum.value, '~s') + 'B' : '0'"


@dataclass(frozen=True)
class Chart:
    """One chart of a section. Without a `spec`, the page shows heading and caption alone."""

    heading: str
    caption: str
    spec: dict[str, Any] | None
    wide: bool = False


def stacked(
    data: Sequence[Stack], style: BarStyle, hues: Sequence[str], what: str, description: str
) -> dict[str, Any]:
    """Stacked bars, one per plan; the legend has only parts with bytes."""
    rows = [
        {"plan": bar.plan, what: part, "order": i, "bytes": size}
        for bar in data
        for i, (part, size) in enumerate(zip(style.parts, bar.parts, strict=True))
        if size
    ]
    present = [part for part in style.parts if any(row[what] == part for row in rows)]
    scale = alt.Scale(domain=present, range=[hues[style.parts.index(part)] for part in present])
    plans = [bar.plan for bar in data]
    chart = (
        alt.Chart(values_of(rows))
        .mark_bar(height={"band": 0.72})
        .encode(
            alt.X("sum(bytes):Q", title=style.axis, axis=bytes_axis()),
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
    return alt.Axis(labelExpr=SIZE_LABEL, tickCount=5)


def legend_below(
    symbol: str | None = None, title: str | None = None, hollow: bool = False
) -> alt.Legend:
    """A legend below the chart in two columns, which fit on a phone."""
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


def line_colour(plans: Sequence[str]) -> alt.Color:
    return plan_colour(plans, "stroke")


def line_dash(plans: Sequence[str]) -> alt.StrokeDash:
    return alt.StrokeDash(
        "plan:N", scale=alt.Scale(domain=list(plans)), legend=legend_below("stroke")
    )


def framed(chart: Any, description: str, height: int) -> dict[str, Any]:
    """The chart's spec at the full width of the page; `description` is for screen readers."""
    fitted = chart.properties(
        width="container",
        height=height,
        description=description,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    return fitted.to_dict()
