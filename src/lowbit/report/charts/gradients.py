"""Gradient norms by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lowbit.report.charts.base import Chart, framed, line_colour, line_dash, values_of
from lowbit.report.figures import gradients
from lowbit.report.figures.gradients import Norms
from lowbit.study.cells import Setting
from lowbit.study.schema import Part


def chart(part: Part, setting: Setting) -> Chart | None:
    """Shown where a run logged the gradients of its layers."""
    norms = gradients.data(setting)
    caption = (
        "Norm of the gradients of all that is trained in a layer, before clipping: geometric mean "
        "over the logged steps after the warm-up, and over seeds."
    )
    return Chart("How large gradients are", caption, spec(norms)) if norms else None


def spec(data: Sequence[Norms]) -> dict[str, Any]:
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
