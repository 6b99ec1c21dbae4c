"""Interactive charts of the page, one file each, from the data of the figures.

base       the chart dataclass, axes, legends and colours
curves     training loss by step
forest     gains over a control
gradients  gradient norms by layer
memory     peak memory
pareto     score against stored bytes
ranks      ranks by layer and matrix
sizes      stored bytes by role

`chart(part, setting)` of each file returns heading, caption and spec, or None without data.
"""

from __future__ import annotations

from lowbit.report.charts import curves, forest, gradients, memory, pareto, ranks, sizes
from lowbit.report.charts.base import Chart
from lowbit.study.cells import Setting
from lowbit.study.schema import StudyPart

CHARTS = (
    pareto.chart,
    curves.chart,
    gradients.chart,
    memory.chart,
    forest.chart,
    ranks.chart,
    sizes.chart,
)
"""The charts in the order of the page."""


def charts_of(part: StudyPart, setting: Setting) -> list[Chart]:
    """The charts of one section of the page."""
    charts = (chart(part, setting) for chart in CHARTS)
    return [chart for chart in charts if chart is not None]
