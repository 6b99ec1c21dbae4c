"""Gradient norms by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from lowbit.report.charts.base import Chart, framed, line_colour, line_dash, values_of
from lowbit.report.figures import gradients
from lowbit.report.figures.gradients import Norms
from lowbit.study.cells import Setting
from lowbit.study.schema import StudyPart


def chart(part: StudyPart, setting: Setting) -> Chart | None:
    """Shown if a run logged gradient norms by layer."""
    norms = gradients.data(setting)
    caption = (
        "Gradient norm of all trained parameters of a layer, before clipping: geometric mean over "
        "the logged steps after the warm-up, and over seeds."
    )
    return Chart("Gradient norms by layer", caption, spec(norms)) if norms else None


def spec(data: Sequence[Norms]) -> dict[str, Any]:
    """One line per plan over layers."""
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
