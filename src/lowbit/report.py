"""The report: one HTML file that shows a study to someone who has neither the code nor a network.

Everything is inside the file: the table, interactive charts with their runtime (once, about
0.9 MB), where the bits went, and every run's details. A content-security policy forbids the page
to fetch anything at all. What it shows comes from records, which may hold any text: the template
escapes words, and `embed` escapes what stands inside a script. Beside the page lie the figures for
a paper, and the table as Markdown and CSV. The same records give the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lowbit import charts, figures
from lowbit.cells import Run, Setting, settings
from lowbit.figures import curves, pareto, sizes
from lowbit.figures.look import megabytes
from lowbit.files import write_atomic
from lowbit.quant.formats import bits_of, parse
from lowbit.record import Record, SiteRecord
from lowbit.rows import Row, rows
from lowbit.table import footnotes, sheets, to_csv, to_markdown

FOLDER, PAGE = "report", "index.html"


@dataclass(frozen=True)
class Bitmap:
    """Which site has how many bits under which plan; a site that a plan lacks is None."""

    plans: tuple[str, ...]
    sites: tuple[str, ...]
    cells: tuple[tuple[SiteRecord | None, ...], ...]


def write(
    folder: Path,
    title: str,
    hypothesis: str,
    claims: Sequence[str],
    runs: Sequence[Run],
    generated_by: str,
) -> Path:
    """Write `report/` into the study's folder; returns the page's path."""
    target, groups, table = folder / FOLDER, settings(runs), rows(runs)
    for i, setting in enumerate(groups):
        suffix = "" if len(groups) == 1 else f"-{i + 1}-{_slug(setting)}"
        _figures(setting, target / "figures", suffix)
    write_atomic(target / "table.md", to_markdown(table).encode())
    write_atomic(target / "table.csv", to_csv(table).encode())
    text = page(title, hypothesis, claims, runs, table, generated_by)
    write_atomic(target / PAGE, text.encode())
    return target / PAGE


def page(
    title: str,
    hypothesis: str,
    claims: Sequence[str],
    runs: Sequence[Run],
    table: Sequence[Row],
    generated_by: str,
) -> str:
    """The HTML file's text; `table` is `rows(runs)`."""
    groups, records = settings(runs), [record for _, record in runs]
    parts = zip(groups, sheets(table), _notes(table, groups), strict=True)
    template = _environment().get_template("report.html.j2")
    return template.render(
        title=title,
        hypothesis=hypothesis,
        claims=list(claims),
        generated_by=generated_by,
        sections=[
            {"sheet": sheet, "notes": notes, "charts": _charts(s), "bitmap": bitmap(s)}
            for s, sheet, notes in parts
        ],
        records=records,
        notes=list(dict.fromkeys(note for record in records for note in record.facts.notes)),
        versions=versions(records),
        runtime=Markup(runtime()),
    )


def _notes(table: Sequence[Row], groups: Sequence[Setting]) -> list[list[str]]:
    """The footnotes of each setting."""
    return [footnotes([r for r in table if (r.model, r.task) == (s.model, s.task)]) for s in groups]


def _figures(setting: Setting, folder: Path, suffix: str) -> None:
    figures.save("pareto", pareto.data(setting), folder, f"pareto{suffix}")
    figures.save("curves", curves.data(setting), folder, f"curves{suffix}")
    figures.save("bytes", sizes.data(setting), folder, f"bytes{suffix}")


def _slug(setting: Setting) -> str:
    """The last parts of the model's and the task's names, as a file's name may have them."""
    parts = (re.split(r"[/\\:]", name.rstrip("/\\"))[-1] for name in (setting.model, setting.task))
    return "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in parts)


def _charts(setting: Setting) -> list[dict[str, Any]]:
    """Each chart with its heading and what to see in it."""
    history = curves.data(setting)
    selection = " Circles: the selection split." if history.alike else ""
    points, plans = pareto.data(setting), [cell.plan for cell in setting.cells]
    lost = f" Diverged, no score: {', '.join(points.diverged)}." if points.diverged else ""
    wanted = "Lower" if setting.better == "lower" else "Higher"
    return [
        {
            "heading": "What the bytes buy",
            "caption": f"{wanted} and further left is better. Small dots are seeds; the stairs "
            f"join the plans that no other plan beats in both.{lost}",
            "spec": charts.pareto(points, plans) if points.points else None,
        },
        {
            "heading": "How training went",
            "caption": "Thick: mean over seeds. Thin: single seeds." + selection,
            "spec": charts.curves(history),
        },
        {
            "heading": "Where the bytes are",
            "caption": "Stored bytes by role; adapters are kept in 32 bits.",
            "spec": charts.sizes(sizes.data(setting)),
        },
    ]


def bitmap(setting: Setting) -> Bitmap:
    """Sites down, plans across, from the first seed of each plan."""
    plans = [
        (cell.plan, {site.name: site for site in cell.records[0].sites}) for cell in setting.cells
    ]
    names = list(dict.fromkeys(name for _, sites in plans for name in sites))
    start = _shared_parts(names)
    return Bitmap(
        plans=tuple(plan for plan, _ in plans),
        sites=tuple(".".join(name.split(".")[start:]) for name in names),
        cells=tuple(tuple(sites.get(name) for _, sites in plans) for name in names),
    )


def _shared_parts(names: Sequence[str]) -> int:
    """How many leading dotted parts all names have in common; each keeps its last."""
    parts = [name.split(".")[:-1] for name in names]
    columns = list(zip(*parts, strict=False))
    same = [len(set(column)) == 1 for column in columns]
    return same.index(False) if False in same else len(same)


def versions(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Every recorded fact but the notes, with all the values it took."""
    facts = [{k: v for k, v in asdict(r.facts).items() if k != "notes"} for r in records]
    keys = list(facts[0]) if facts else []
    return [(key, ", ".join(sorted({_fact(key, fact[key]) for fact in facts}))) for key in keys]


def _fact(key: str, value: object) -> str:
    return megabytes(float(str(value))) if key == "memory" else str(value)


def bits(site: SiteRecord) -> float:
    return bits_of(parse(site.format))


def shade(site: SiteRecord) -> str:
    """The class of a bit map's cell: fewer bits, stronger."""
    count = bits(site)
    return next(f"b{limit}" for limit in (2, 3, 4, 6, 8, 32) if count <= limit)


def embed(value: Any) -> Markup:
    """JSON that may stand inside a script element: no character of it can end the element."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def runtime() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script without imports."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in script.lower() or "<!--" in script:
        raise AssertionError("the chart runtime cannot stand inside a script element")
    return script


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lowbit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(embed=embed, size=megabytes, bits=bits, shade=shade)
    return environment
