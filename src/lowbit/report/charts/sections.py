"""Which charts a section of the report has, each with its heading and what to see in it."""

from __future__ import annotations

from typing import Any

from lowbit.report.charts import base, layers
from lowbit.report.figures import curves, forest, gradients, memory, pareto, ranks, sizes
from lowbit.study.cells import Setting
from lowbit.study.schema import Part

Chart = dict[str, Any]


def charts_of(part: Part, setting: Setting) -> list[Chart]:
    """In the order of the page; those with nothing to show are left out."""
    found = [
        _pareto(setting),
        _curves(setting),
        *_gradients(setting),
        *_memory(setting),
        *_forest(part, setting),
        *_ranks(setting),
        _sizes(setting),
    ]
    return found


def _pareto(setting: Setting) -> Chart:
    points, plans = pareto.data(setting), [cell.plan for cell in setting.cells]
    lost = f" Diverged, no score: {', '.join(points.diverged)}." if points.diverged else ""
    wanted = "Lower" if setting.better == "lower" else "Higher"
    caption = (
        f"{wanted} and further left is better. Small dots are seeds, bars 95 % intervals of the "
        f"mean over seeds; the stairs join the plans that no other plan beats in both.{lost}"
    )
    spec = base.pareto(points, plans) if points.points else None
    return {"heading": "What the bytes buy", "caption": caption, "spec": spec}


def _curves(setting: Setting) -> Chart:
    history = curves.data(setting)
    selection = " Circles: the selection split." if history.alike else ""
    return {
        "heading": "How training went",
        "caption": "Thick: mean over seeds. Thin: single seeds." + selection,
        "spec": base.curves(history),
    }


def _gradients(setting: Setting) -> list[Chart]:
    found = gradients.data(setting)
    caption = (
        "Norm of the gradients of all that is trained in a layer, before clipping: geometric mean "
        "over the logged steps after the warm-up, and over seeds."
    )
    spec = {"heading": "How large gradients are", "caption": caption}
    return [{**spec, "spec": layers.gradients(found)}] if found else []


def _memory(setting: Setting) -> list[Chart]:
    found = memory.data(setting)
    caption = (
        "From a short pass of each plan alone on the machine with every matrix packed and freed "
        "memory handed back, where there was one."
    )
    spec = {"heading": "What a run takes in memory", "caption": caption}
    return [{**spec, "spec": layers.memory(found)}] if found else []


def _forest(part: Part, setting: Setting) -> list[Chart]:
    if not part.control or not (found := forest.data(setting, part.control)).effects:
        return []
    caption = (
        f"Gain over {part.control}, averaged over seeds, with its 95 % interval over seeds and "
        "documents drawn together. Exploratory: not corrected."
    )
    spec = layers.forest(found)
    return [{"heading": "What each change does", "caption": caption, "spec": spec}]


def _ranks(setting: Setting) -> list[Chart]:
    found = ranks.data(setting)
    if not any(cell.rank for panel in found.panels for cell in panel.cells):
        return []
    caption = (
        "Adapter ranks after training, mean over seeds; point at a cell for its format and bytes."
    )
    spec = layers.ranks(found)
    return [
        {"heading": "Where ranks and bits ended", "caption": caption, "spec": spec, "wide": True}
    ]


def _sizes(setting: Setting) -> Chart:
    return {
        "heading": "Where the bytes are",
        "caption": "Stored bytes by role; adapters are kept in 32 bits.",
        "spec": base.sizes(sizes.data(setting)),
        "wide": True,
    }
