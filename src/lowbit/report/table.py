"""The summary table of a study: one row per plan over its seeds, for terminal, Markdown and CSV.

`sheets` formats one table for each (model, task). Terminal, Markdown and HTML show the same text;
CSV has the full numbers. The header has the units, one for each column, so that every number fits
in 80 columns. A diverged run has no score.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from lowbit.study.summary_rows import SummaryRow

NONE = "–"
ENOUGH_SEEDS = 6
"""An exact paired sign test on n seeds cannot give p below 2^(1-n); 5 % needs six seeds."""


@dataclass(frozen=True)
class Sheet:
    """One formatted table: a title, (name, unit) of each column, and the cells as text."""

    title: str
    header: tuple[tuple[str, str], ...]
    body: tuple[tuple[str, ...], ...]
    winner: str | None = None
    """The plan that is significantly better than every other, if there is one."""


def sheets(rows: Sequence[SummaryRow]) -> list[Sheet]:
    """Format the rows, one sheet for each (model, task)."""
    groups: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in rows:
        groups.setdefault((row.model, row.task), []).append(row)
    return [_sheet(f"{model} · {task}", group) for (model, task), group in groups.items()]


def _sheet(title: str, rows: list[SummaryRow]) -> Sheet:
    language = rows[0].metric == "loss"
    stored_unit, stored = _bytes([row.stored for row in rows])
    peak_unit, peak = _bytes([row.peak for row in rows])
    header = [("plan", ""), (rows[0].metric, "nats" if language else "%")]
    header += [("ppl", "")] if language else []
    header += [("gap", "nats" if language else "points"), ("±", "s.e.")]
    header += [("stored", stored_unit), ("peak", peak_unit)]
    header += [("train", "%"), ("tok/s", ""), ("seeds", "")]
    body = []
    for row, size, memory in zip(rows, stored, peak, strict=True):
        mark = "~" if row.shared else ""
        quality = [_value(row), *([_perplexity(row.perplexity)] if language else []), *_gap(row)]
        cost = [size, mark + memory, f"{100 * row.share:.3g}", mark + _count(row.tokens_per_s)]
        body.append((row.plan, *quality, *cost, _seeds(row)))
    best = next((row.plan for row in rows if row.best), None)
    return Sheet(title, tuple(header), tuple(body), best)


def _value(row: SummaryRow) -> str:
    if row.value is None:
        return "diverged"
    return f"{row.value.mean:.3f}" if row.metric == "loss" else f"{100 * row.value.mean:.1f}"


def _gap(row: SummaryRow) -> list[str]:
    """The gap and its standard error."""
    if row.gap is None:
        return ["ref." if row.reference else "refused" if row.comparison.refused else NONE, NONE]
    scale, digits = (1, 4) if row.metric == "loss" else (100, 2)
    error = NONE if row.gap.se is None else f"{scale * row.gap.se:.{digits}f}"
    return [f"{scale * row.gap.estimate:+.{digits}f}", error]


def _perplexity(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}" if value < 1e6 else f"{value:.1e}"


def _bytes(values: Sequence[int]) -> tuple[str, list[str]]:
    """A unit for the whole column, and its numbers with the same decimals."""
    top, bottom = max(values), max(1, min(values))
    unit, scale = next(
        (u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if top >= s or s == 1e3
    )
    digits = max(0, min(3, 2 - math.floor(math.log10(bottom / scale))))
    room = max(0, 5 - len(f"{top / scale:.0f}"))
    return unit, [f"{value / scale:.{min(digits, room)}f}" for value in values]


def _count(value: float) -> str:
    return f"{value:.0f}" if value < 1e5 else f"{value / 1e3:.0f}k"


def _seeds(row: SummaryRow) -> str:
    return f"{row.done}/{row.done + row.diverged}" if row.diverged else f"{row.done}"


def footnotes(rows: Sequence[SummaryRow]) -> list[str]:
    """Notes that a reader needs before comparing plans; each names its plan."""
    notes = []
    if any(row.gap for row in rows):
        notes.append(
            "gap: difference to the 16-bit plan (ref.), paired by seed and document. ±: its "
            "standard error over documents; it does not cover other seeds."
        )
    best = [row for row in rows if row.best]
    if best:
        notes.append(
            "bold: better than every other plan, by a bootstrap over seeds and documents with "
            "Holm's correction."
        )
    several = len({(row.model, row.task) for row in rows}) > 1
    for row in rows:
        name = _name(row, several)
        notes += [f"{name}: gap refused, {reason}." for reason in row.comparison.refused]
        total = row.done + row.diverged
        if row.diverged:
            rest = "; its numbers are from the others" if row.done else ""
            notes.append(f"{name}: {row.diverged} of {total} runs diverged{rest}.")
        if row.gap and row.comparison.seeds < row.done:
            notes.append(f"{name}: gap over {row.comparison.seeds} of {row.done} seeds.")
    if pruned := [row for row in rows if row.remaining_share < row.share]:
        shares = ", ".join(
            f"{_name(row, several)} {100 * row.remaining_share:.3g} %" for row in pruned
        )
        notes.append(f"train: at the start of training. After pruning of ranks: {shares}.")
    if any(row.decoded_peak for row in rows):
        notes.append(
            "peak: measured in a few steps alone on the machine, with packed weights and freed "
            "memory returned at once. The runs used decoded copies of the same weights, for speed."
        )
    if any(row.shared for row in rows):
        notes.append("~: measured while other runs shared the machine.")
    fewest = min((row.done for row in rows if row.done), default=0)
    if 0 < fewest < ENOUGH_SEEDS:
        notes.append(_too_few(fewest))
    return notes


def _name(row: SummaryRow, several: bool) -> str:
    return f"{row.plan} on {row.task}" if several else row.plan


def _too_few(seeds: int) -> str:
    word = ("One", "Two", "Three", "Four", "Five")[seeds - 1]
    return (
        f"{word} seed{'' if seeds == 1 else 's'} support{'s' if seeds == 1 else ''} no claim about "
        f"differences: an exact paired sign test needs at least {ENOUGH_SEEDS} seeds."
    )


def render(rows: Sequence[SummaryRow], width: int) -> Table:
    """The tables for the terminal, at most `width` wide: long plan names fold, numbers never do."""
    page = Table.grid(padding=(0, 0, 1, 0))
    page.width = width
    for sheet in sheets(rows):
        page.add_row(_terminal(sheet))
    page.add_row(Text("\n".join(footnotes(rows)), style="dim"))
    return page


def _terminal(sheet: Sheet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title=Text(sheet.title))
    for i, (name, unit) in enumerate(sheet.header):
        heading = Text(f"{name}\n{unit}" if unit else name)
        if i == 0:
            table.add_column(heading, overflow="fold", min_width=6)
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for line in sheet.body:
        style = "bold" if line[0] == sheet.winner else ""
        table.add_row(*(Text(cell, style) for cell in line))
    return table


def to_markdown(rows: Sequence[SummaryRow]) -> str:
    """The tables in Markdown, followed by the footnotes."""
    parts = []
    for sheet in sheets(rows):
        header = [f"{name} ({unit})" if unit else name for name, unit in sheet.header]
        rule = ["---", *["---:"] * (len(header) - 1)]
        lines = [escaped(header), rule, *(_bold(escaped(line), sheet) for line in sheet.body)]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"**{escaped([sheet.title])[0]}**\n\n{body}")
    notes = "\n".join(f"- {note}" for note in escaped(footnotes(rows)))
    return "\n\n".join([*parts, notes]).strip() + "\n"


def _bold(line: list[str], sheet: Sheet) -> list[str]:
    """The winner's name and metric in bold."""
    if sheet.winner is None or line[0] != escaped([sheet.winner])[0]:
        return line
    return [f"**{line[0]}**", f"**{line[1]}**", *line[2:]]


def escaped(words: Sequence[str]) -> list[str]:
    """Text with every character escaped that could end a cell or start an HTML element."""
    escapes = str.maketrans({"|": r"\|", "<": "&lt;", "&": "&amp;", "\n": " ", "\r": " "})
    return [word.translate(escapes) for word in words]


def to_csv(rows: Sequence[SummaryRow]) -> str:
    """The rows as CSV, with full numbers in base units; a field is empty if there is no value."""
    out = io.StringIO()
    lines = [_fields(row) for row in rows]
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


FIELDS = (
    *("model", "task", "plan", "metric", "better", "value", "sd", "perplexity"),
    *("gap", "gap_se", "gap_low", "gap_high", "gap_documents", "gap_seeds", "reference"),
    *("stored_bytes", "peak_bytes", "decoded_peak_bytes"),
    *("trainable_share", "kept_share", "tokens_per_s", "timed"),
    *("done", "diverged"),
)


def _fields(row: SummaryRow) -> dict[str, object]:
    gap, value = row.gap, row.value
    numbers: tuple[object, ...] = (
        *(row.model, row.task, row.plan, row.metric, row.better),
        *((value.mean, value.sd) if value else (None, None)),
        row.perplexity,
        *((gap.estimate, gap.se, gap.low, gap.high, gap.documents) if gap else (None,) * 5),
        *(row.comparison.seeds, row.reference),
        *(row.stored, row.peak, row.decoded_peak or None),
        *(row.share, row.remaining_share, row.tokens_per_s),
        *("shared" if row.shared else "alone", row.done, row.diverged),
    )
    return dict(zip(FIELDS, numbers, strict=True))
