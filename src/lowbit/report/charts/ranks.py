"""Heat map of adapter ranks by layer and matrix.

The tooltip of a cell gives its matrix, format, rank and bytes.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from lowbit.report.charts.base import Chart, legend_below, values_of
from lowbit.report.figures import ranks
from lowbit.report.figures.ranks import SHADES, Ranks
from lowbit.study.cells import Setting
from lowbit.study.schema import StudyPart


def chart(part: StudyPart, setting: Setting) -> Chart | None:
    """Shown if a plan has an adapter."""
    final = ranks.data(setting)
    if not any(cell.rank for panel in final.panels for cell in panel.cells):
        return None
    caption = (
        "Adapter ranks after training, mean over seeds; point at a cell for its format and bytes."
    )
    return Chart("Ranks after training, and bits", caption, spec(final), wide=True)


def spec(data: Ranks) -> dict[str, Any]:
    """One panel per plan; the colour of a cell's frame is the bits of the frozen weight."""
    rows = [
        {"plan": p.plan, "layer": c.layer, "matrix": data.matrices[c.row], "rank": round(c.rank, 2),
         "bits": c.bits, "format": c.format, "bytes": c.bytes}
        for p in data.panels for c in p.cells
    ]  # fmt: skip
    plans = [panel.plan for panel in data.panels]
    tooltips = [alt.Tooltip(f"{key}:N") for key in ("plan", "matrix", "layer", "format", "rank")]
    names = alt.Axis(labelOverlap=False, labelFontSize=10, labelLimit=110, ticks=False)
    base = alt.Chart(values_of(rows)).encode(
        alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, ticks=False)),
        alt.Y("matrix:N", title=None, sort=list(data.matrices), axis=names),
        tooltip=[*tooltips, alt.Tooltip("bytes:Q", format=",.0f")],
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
