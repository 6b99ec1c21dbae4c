"""The report of a study as one HTML file, which needs neither the code nor a network.

The file contains the table, interactive charts with their runtime (about 0.9 MB), the bits of every
site, and the details of every run. A content-security policy forbids the page to fetch anything.
Records may contain any text, so the template escapes it, and `embed` escapes JSON inside a script.
The folder of the page also has figures for a paper, and the table as Markdown and CSV. The same
records give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lowbit.core.files import write_atomic
from lowbit.quant.formats import bits_of, parse
from lowbit.report import draw, scorecard_table, wording
from lowbit.report.appendix import appendices, costs, hyperparameters, logs, ranks
from lowbit.report.charts import charts_of
from lowbit.report.figures.style import megabytes
from lowbit.report.table import footnotes, sheets, to_csv, to_markdown
from lowbit.runs.record import Record, SiteRecord
from lowbit.runs.store import FinishedRun
from lowbit.study.cells import Setting, settings
from lowbit.study.predicted_vs_observed import PredictedGap, kinds_without_runs, predicted_gaps
from lowbit.study.results import Results
from lowbit.study.schema import MAIN, StudyPart
from lowbit.study.scorecard import scores
from lowbit.study.summary_rows import SummaryRow, summary_rows
from lowbit.study.verdicts import Verdicts, judge

PAGE = "index.html"


@dataclass(frozen=True)
class Bitmap:
    """The bits of every site under every plan; None if a plan does not have the site."""

    plans: tuple[str, ...]
    sites: tuple[str, ...]
    cells: tuple[tuple[SiteRecord | None, ...], ...]


@dataclass(frozen=True)
class Contents:
    """The contents of a report: parts with their finished runs, verdicts and predictions."""

    title: str
    hypothesis: str
    generated_by: str
    parts: tuple[tuple[StudyPart, tuple[FinishedRun, ...]], ...]
    verdicts: Verdicts | None = None
    predicted: tuple[PredictedGap, ...] = ()
    absent: tuple[str, ...] = ()
    """The kind of every predicted gap that has no runs yet."""

    @property
    def runs(self) -> list[FinishedRun]:
        """Every run of all parts, once."""
        return list({run.name: run for _, runs in self.parts for run in runs}.values())

    @property
    def part_settings(self) -> list[tuple[StudyPart, Setting]]:
        return [(part, setting) for part, runs in self.parts for setting in settings(runs)]


def contents(results: Results, generated_by: str) -> Contents:
    """Collect the contents of a study's report."""
    study = results.study
    parts = tuple((part, results.runs_of(part)) for part in results.parts)
    verdicts = judge(results) if study.claims or study.questions else None
    gaps = tuple(predicted_gaps(results))
    absent = tuple(kinds_without_runs(results, gaps))
    return Contents(study.title, study.hypothesis, generated_by, parts, verdicts, gaps, absent)


def write(folder: Path, contents: Contents) -> Path:
    """Write the page, the figures and the tables into a folder; returns the page's path."""
    draw.draw(contents.part_settings, folder / "figures", predicted=contents.predicted)
    tables = [(part, summary_rows(runs)) for part, runs in contents.parts if runs]
    several = len(tables) > 1
    text = "\n".join(
        (f"## {part.title}\n\n" if several else "") + to_markdown(table) for part, table in tables
    )
    write_atomic(folder / "table.md", text.encode())
    if tables:
        write_atomic(folder / "table1.md", to_markdown(tables[0][1]).encode())
        write_atomic(folder / "table1.csv", to_csv(tables[0][1]).encode())
    write_atomic(folder / "table.csv", to_csv([row for _, t in tables for row in t]).encode())
    for name, (markdown, sheet) in appendices(contents.part_settings).items():
        write_atomic(folder / f"{name}.md", markdown.encode())
        write_atomic(folder / f"{name}.csv", sheet.encode())
    write_atomic(folder / "logs.csv", logs(contents.runs).encode())
    write_atomic(folder / PAGE, page(contents).encode())
    return folder / PAGE


def page(contents: Contents) -> str:
    """The HTML file's text."""
    records = [run.record for run in contents.runs]
    template = environment().get_template("report.html.j2")
    return template.render(
        title=contents.title,
        hypothesis=contents.hypothesis,
        generated_by=contents.generated_by,
        verdicts=contents.verdicts,
        predicted=_predicted(contents.predicted, contents.absent),
        criterion=scorecard_table.CRITERION,
        sections=[section for part, runs in contents.parts for section in _sections(part, runs)],
        records=records,
        notes=list(dict.fromkeys(note for record in records for note in record.facts.notes)),
        versions=versions(records),
        runtime=Markup(runtime()),
    )


def _predicted(gaps: Sequence[PredictedGap], absent: Sequence[str]) -> list[dict[str, Any]]:
    """The tables of each kind of gap: its cells, and the score of each predictor."""
    cells = {kind: [c for c in gaps if c.kind == kind] for kind in scorecard_table.kinds(gaps)}
    kind_scores = {kind: [s for s in scores(gaps) if s.kind == kind] for kind in cells}
    return [
        {
            "kind": kind,
            "cells": (scorecard_table.GAP_HEADS, scorecard_table.cell_rows(of_kind)),
            "scores": (scorecard_table.SCORE_HEADS, scorecard_table.score_rows(kind_scores[kind])),
            "unfinished": scorecard_table.unfinished(of_kind, absent.count(kind)),
        }
        for kind, of_kind in cells.items()
    ]


def _sections(part: StudyPart, runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """The sections of a part, one for each setting."""
    table, groups = summary_rows(runs), settings(runs)
    return [
        {
            "part": "" if part.name == MAIN else part.title,
            "sheet": sheet,
            "notes": notes,
            "charts": charts_of(part, setting),
            "bitmap": bitmap(setting),
            "ranks": ranks(setting),
            "settings": hyperparameters(setting),
            "costs": costs(setting),
        }
        for setting, sheet, notes in zip(groups, sheets(table), _notes(table, groups), strict=True)
    ]


def _notes(table: Sequence[SummaryRow], groups: Sequence[Setting]) -> list[list[str]]:
    """The footnotes of each setting."""
    return [footnotes([r for r in table if (r.model, r.task) == (s.model, s.task)]) for s in groups]


def bitmap(setting: Setting) -> Bitmap:
    """Sites as rows and plans as columns, from the first seed of each plan."""
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
    """The number of leading dotted parts that all names share, without their last part."""
    parts = [name.split(".")[:-1] for name in names]
    columns = list(zip(*parts, strict=False))
    same = [len(set(column)) == 1 for column in columns]
    return same.index(False) if False in same else len(same)


def versions(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Every recorded fact except the notes, with all its values in the records."""
    facts = [{k: v for k, v in asdict(r.facts).items() if k != "notes"} for r in records]
    keys = list(facts[0]) if facts else []
    return [(key, ", ".join(sorted({_fact(key, fact[key]) for fact in facts}))) for key in keys]


def _fact(key: str, value: object) -> str:
    return megabytes(float(str(value))) if key == "memory" else str(value)


def bits(site: SiteRecord) -> float:
    return bits_of(parse(site.format))


def shade(site: SiteRecord) -> str:
    """The CSS class of a cell in the bit map; fewer bits are darker."""
    count = bits(site)
    return next(f"b{limit}" for limit in (2, 3, 4, 6, 8, 32) if count <= limit)


def embed(value: Any) -> Markup:
    """JSON for a script element, with every character escaped that could end the element."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def runtime() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in script.lower() or "<!--" in script:
        raise AssertionError("the chart runtime contains the end of a script element")
    return script


@cache
def environment(*folders: tuple[str, str]) -> Environment:
    """The template environment; other (package, folder) pairs take precedence."""
    template_folders = (*folders, ("lowbit.report", "templates"))
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(package, folder) for package, folder in template_folders]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        embed=embed,
        size=megabytes,
        bits=bits,
        shade=shade,
        effect=wording.effect,
        other_tests=wording.other_tests,
        runs_by_seed=wording.runs_by_seed,
    )
    return environment
