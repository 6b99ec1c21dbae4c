"""Appendices from the records: final ranks, formats of every matrix, settings, costs, logs.

Each is written as Markdown and CSV. Ranks are means over seeds, with the smallest and the largest.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from lowbit.report.figures import memory
from lowbit.report.table import escaped
from lowbit.runs.store import FinishedRun
from lowbit.study.cells import Cell, Setting
from lowbit.study.schema import StudyPart

Grid = tuple[list[str], list[list[str]]]
COSTS = (
    *("wall clock, s", "CPU, s", "GPU, s"),
    *(f"memory, MB: {part}" for part in memory.STYLE.parts),
    "peak with decoded copies, MB",
)
LOGGED = (
    "step",
    "epoch",
    "loss",
    "selection",
    "grad_norm",
    "grad_variance",
    "lr",
    "tokens",
    "tokens_per_s",
)


def appendices(part_settings: Sequence[tuple[StudyPart, Setting]]) -> dict[str, tuple[str, str]]:
    """(Markdown, CSV) of each appendix."""
    grids = {
        "appendix-a-ranks": ranks,
        "appendix-b-bits": bits,
        "settings": hyperparameters,
        "costs": costs,
    }
    return {name: _both(part_settings, grid) for name, grid in grids.items()}


def _both(part_settings: Sequence[tuple[StudyPart, Setting]], grid: Any) -> tuple[str, str]:
    texts, rows = [], []
    for part, setting in part_settings:
        head, body = grid(setting)
        texts.append(
            f"**{part.title} · {setting.model} · {setting.task}**\n\n{_markdown(head, body)}"
        )
        rows += [
            {"part": part.name, "model": setting.model, "task": setting.task, "what": line[0],
             "plan": plan, "value": value}
            for line in body for plan, value in zip(head[1:], line[1:], strict=True)
        ]  # fmt: skip
    return "\n".join(texts), _csv(("part", "model", "task", "what", "plan", "value"), rows)


def ranks(setting: Setting) -> Grid:
    """One row per matrix, one column per plan: the rank after training."""
    names = _sites(setting, adapted=True)
    plans = [cell for cell in setting.cells if cell.done]
    return (
        ["matrix", *(cell.plan for cell in plans)],
        [[name, *(_rank(cell, name) for cell in plans)] for name in names],
    )


def _rank(cell: Cell, name: str) -> str:
    ranks = [
        site.final_rank
        for run in cell.done.values()
        for site in run.record.sites
        if site.name == name
    ]
    if not ranks:
        return "–"
    mean, low, high = sum(ranks) / len(ranks), min(ranks), max(ranks)
    return f"{mean:g}" if low == high else f"{mean:.1f} ({low}–{high})"


def bits(setting: Setting) -> Grid:
    """One row per matrix, one column per plan: its storage format."""
    names = _sites(setting)
    formats = [{s.name: s.format for s in cell.records[0].sites} for cell in setting.cells]
    return (
        ["matrix", *(cell.plan for cell in setting.cells)],
        [[name, *(stored.get(name, "–") for stored in formats)] for name in names],
    )


def hyperparameters(setting: Setting) -> Grid:
    """One row per setting, one column per plan: its declared value."""
    specs = [_flat(cell.records[0].spec) for cell in setting.cells]
    keys = [k for k in dict.fromkeys(k for spec in specs for k in spec) if k not in ("seed",)]
    body = [[key, *(str(spec.get(key, "–")) for spec in specs)] for key in keys]
    seeds = [", ".join(str(record.seed) for record in cell.records) for cell in setting.cells]
    return ["setting", *(cell.plan for cell in setting.cells)], [*body, ["seeds", *seeds]]


def costs(setting: Setting) -> Grid:
    """One row per cost, one column per plan; memory is the isolated cost if it was measured."""
    plans = [cell for cell in setting.cells if cell.done]
    costs_by_plan = [_cost(cell) for cell in plans]
    body = [[name, *(cost[name] for cost in costs_by_plan)] for name in COSTS]
    return ["of a run", *(cell.plan for cell in plans)], body


def _cost(cell: Cell) -> dict[str, str]:
    """Means over seeds, marked with ~ if other runs shared the machine."""
    runs = list(cell.done.values())
    costs = [run.cost for run in runs]
    mark = "~" if any(cost.timed == "shared" for cost in costs) else ""
    isolated = [cost for run in runs if (cost := run.isolated_cost)]
    parts = memory.peak(cell).parts
    times = [[c.wall_s for c in costs], [c.cpu_s for c in costs], [c.gpu_s for c in costs]]
    decoded = max((cost.decoded_peak_bytes for cost in isolated), default=0)
    figures = [
        *(f"{mark}{sum(each) / len(each):.0f}" for each in times),
        *(f"{part / 1e6:.2f}" if part else "–" for part in parts),
        f"{decoded / 1e6:.2f}" if decoded else "–",
    ]
    return dict(zip(COSTS, figures, strict=True))


def _flat(spec: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in spec.items():
        if isinstance(value, dict):
            values |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            values[f"{prefix}{key}"] = "; ".join(_rule(item) for item in value) or "none"
        else:
            values[f"{prefix}{key}"] = "none" if value in (None, "") else value
    return values


def _rule(rule: Any) -> str:
    if not isinstance(rule, dict):
        return str(rule)
    return ", ".join(f"{k} {v}" for k, v in rule.items() if v not in (None, []))


def _sites(setting: Setting, adapted: bool = False) -> list[str]:
    sites = (s for cell in setting.cells for s in cell.records[0].sites)
    return list(dict.fromkeys(s.name for s in sites if s.rank or not adapted))


def logs(runs: Iterable[FinishedRun]) -> str:
    """Every logged line of every run as CSV."""
    rows = []
    for run in runs:
        record = run.record
        about = {"model": record.model, "task": record.task, "plan": record.plan,
                 "seed": record.seed}  # fmt: skip
        for line in run.log:
            norms = {f"norm_{k}": v for k, v in (line.get("grad_norms") or {}).items()}
            rows.append({**about, **{k: line.get(k) for k in LOGGED}, **norms})
    layers = dict.fromkeys(key for row in rows for key in row if key.startswith("norm_"))
    return _csv(("model", "task", "plan", "seed", *LOGGED, *layers), rows)


def _csv(fields: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    rows = [escaped(head), rule, *(escaped(line) for line in body)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
