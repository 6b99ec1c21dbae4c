"""The report's charts of layers, memory and effects: the figures' data as Vega-Lite specs.

The heat map answers to the pointer: a cell says its matrix, format, rank and bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lowbit.report.charts.base import (
    framed,
    legend_below,
    line_colour,
    line_dash,
    stacked,
    values_of,
)
from lowbit.report.figures.forest import Forest
from lowbit.report.figures.gradients import Norms
from lowbit.report.figures.memory import LOOK, Peak
from lowbit.report.figures.ranks import SHADES, Ranks


def ranks(data: Ranks) -> dict[str, Any]:
    """A panel a plan; the frame's colour is the bits of the base."""
    rows = [
        {"plan": p.plan, "layer": c.layer, "matrix": data.matrices[c.row], "rank": round(c.rank, 2),
         "bits": c.bits, "format": c.format, "bytes": c.bytes}
        for p in data.panels for c in p.cells
    ]  # fmt: skip
    plans = [panel.plan for panel in data.panels]
    tips = [alt.Tooltip(f"{key}:N") for key in ("plan", "matrix", "layer", "format", "rank")]
    names = alt.Axis(labelOverlap=False, labelFontSize=10, labelLimit=110, ticks=False)
    base = alt.Chart(values_of(rows)).encode(
        alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, ticks=False)),
        alt.Y("matrix:N", title=None, sort=list(data.matrices), axis=names),
        tooltip=[*tips, alt.Tooltip("bytes:Q", format=",.0f")],
    )
    cells = base.mark_rect(strokeWidth=2).encode(
        alt.Color("rank:Q", scale=alt.Scale(range=list(SHADES), domainMin=0), legend=None),
        alt.Stroke(
            "bits:O",
            scale=alt.Scale(scheme="category10"),
            legend=legend_below("square", title="bits of the base", hollow=True),
        ),
    )
    ink = f"datum.rank > {0.6 * data.most}"
    words = base.mark_text(fontSize=9).encode(
        alt.Text("rank:Q", format=".0f"),
        color=alt.condition(ink, alt.value("white"), alt.value("#1a1a1a")),
    )
    panel = alt.layer(cells, words).properties(
        width=22 * data.layers, height=17 * len(data.matrices)
    )
    chart = panel.facet(alt.Facet("plan:N", sort=plans, title=None), columns=3)
    return dict(chart.properties(description="Ranks after training, by layer and matrix").to_dict())


def memory(data: Sequence[Peak]) -> dict[str, Any]:
    """A bar a plan, from its pass alone."""
    return stacked(data, LOOK, LOOK.fills, "part", "Peak memory of a run")


def gradients(data: Sequence[Norms]) -> dict[str, Any]:
    """A line a plan over layers."""
    rows = [
        {"plan": n.plan, "layer": layer, "norm": norm} for n in data for layer, norm in n.points
    ]
    plans = [norms.plan for norms in data]
    tips = [alt.Tooltip("plan:N"), alt.Tooltip("layer:O"), alt.Tooltip("norm:Q", format=".3g")]
    chart = (
        alt.Chart(values_of(rows))
        .mark_line(point=True, strokeWidth=2)
        .encode(
            alt.X("layer:O", axis=alt.Axis(labelAngle=0)),
            alt.Y("norm:Q", title="gradient norm", scale=alt.Scale(type="log")),
            line_colour(plans),
            line_dash(plans),
            tooltip=tips,
        )
    )
    return framed(chart, "Gradient norms by layer", 280)


def forest(data: Forest) -> dict[str, Any]:
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
