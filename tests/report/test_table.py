"""The table: pairing, refused pairs, and that no number is cut off."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.records import PLANS, demo_runs, elsewhere, make_run
from rich.console import Console

from lowbit.report.table import footnotes, render, sheets, to_csv, to_markdown
from lowbit.runs.store import FinishedRun
from lowbit.study.summary_rows import SummaryRow, summary_rows


def terminal(table: list[SummaryRow], width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render(table, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row_of(table: list[SummaryRow], plan: str) -> SummaryRow:
    return next(row for row in table if row.plan == plan)


def test_one_row_a_plan_in_the_order_of_the_study(tmp_path: Path) -> None:
    table = summary_rows(demo_runs(tmp_path))
    assert [row.plan for row in table] == list(PLANS)
    assert all((row.done, row.diverged) == (2, 0) for row in table)


def test_the_gap_is_the_mean_difference_to_the_16_bit_runs_of_the_same_seeds(
    tmp_path: Path,
) -> None:
    runs = demo_runs(tmp_path)
    loss = {(r.plan, r.seed): r.record.metrics["loss"] for r in runs}
    table = summary_rows(runs)
    expected = sum(loss["int2@64", seed] - loss["bf16", seed] for seed in (0, 1)) / 2
    found = row_of(table, "int2@64").gap
    assert found is not None
    assert found.estimate == pytest.approx(expected, rel=1e-9)
    assert row_of(table, "bf16").gap is None
    assert row_of(table, "bf16").reference


def test_without_a_16_bit_plan_there_is_no_gap(tmp_path: Path) -> None:
    table = summary_rows([make_run(tmp_path, "nf4@64+dq"), make_run(tmp_path, "int2@64")])
    assert [row.gap for row in table] == [None, None]
    assert sheets(table)[0].body[0][3] == "–"
    assert not any("gap" in note for note in footnotes(table))


def test_seeds_without_a_16_bit_run_are_left_out_with_a_footnote(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "bf16", 0), *(make_run(tmp_path, "int2@64", s) for s in (0, 1))]
    table = summary_rows(runs)
    assert row_of(table, "int2@64").comparison.seeds == 1
    assert "int2@64: gap over 1 of 2 seeds." in footnotes(table)


def test_runs_that_differ_in_a_recorded_fact_are_refused_by_name(tmp_path: Path) -> None:
    other = elsewhere(threads=8, torch="2.11.0")
    runs = [make_run(tmp_path, "bf16", s) for s in (0, 1)]
    runs += [make_run(tmp_path, "int2@64", s, facts=other) for s in (0, 1)]
    table = summary_rows(runs)
    assert row_of(table, "int2@64").gap is None
    assert "refused" in sheets(table)[0].body[1]
    assert any("threads, torch" in note and "seeds 0, 1" in note for note in footnotes(table))


def test_runs_scored_on_other_examples_are_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "bf16"), make_run(tmp_path, "int2@64", documents=5)]
    assert "different examples" in row_of(summary_rows(runs), "int2@64").comparison.refused[0]


def test_a_diverged_run_has_no_score_in_any_form(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "bf16"), make_run(tmp_path, "int2@64", status="diverged")]
    table = summary_rows(runs)
    lost = row_of(table, "int2@64")
    assert (lost.value, lost.perplexity, lost.gap) == (None, None, None)
    assert "diverged" in terminal(table)
    assert "diverged" in to_markdown(table)
    line = list(csv.DictReader(io.StringIO(to_csv(table))))[1]
    assert (line["value"], line["perplexity"], line["gap"], line["diverged"]) == ("", "", "", "1")


def test_a_partly_diverged_plan_has_a_footnote(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "int2@64", 0), make_run(tmp_path, "int2@64", 1, status="diverged")]
    table = summary_rows(runs)
    assert sheets(table)[0].body[0][-1] == "1/2"
    assert "int2@64: 1 of 2 runs diverged; its numbers are from the others." in footnotes(table)


def test_shared_timings_are_marked(tmp_path: Path) -> None:
    table = summary_rows(
        [make_run(tmp_path, "bf16", 0), make_run(tmp_path, "bf16", 1, timed="shared")]
    )
    assert [cell[0] for cell in sheets(table)[0].body[0][6:9:2]] == ["~", "~"]
    assert any(note.startswith("~") for note in footnotes(table))


@pytest.mark.parametrize(("seeds", "said"), [(1, "One seed"), (2, "Two seeds"), (6, None)])
def test_few_seeds_claim_nothing(tmp_path: Path, seeds: int, said: str | None) -> None:
    notes = footnotes(summary_rows([make_run(tmp_path, "bf16", s) for s in range(seeds)]))
    assert any("no claim" in note for note in notes) == (said is not None)
    assert said is None or any(note.startswith(said) for note in notes)


def every_number(table: list[SummaryRow]) -> set[str]:
    return {cell for sheet in sheets(table) for line in sheet.body for cell in line[1:]}


def awkward(root: Path) -> list[FinishedRun]:
    """Long names, refusals, shared timings, two tasks: as wide as the table gets."""
    long = "a-plan-with-quite-a-long-name-and-[red]markup[/red]"
    runs = demo_runs(root)
    runs += [make_run(root, long, s, formats=PLANS["int2@64"], timed="shared") for s in (0, 1)]
    runs += [make_run(root, "lost", formats=PLANS["int2@64"], status="diverged")]
    for plan, facts in (("bf16", elsewhere()), ("int8@row", elsewhere(threads=64))):
        runs.append(make_run(root, plan, task="sst2", kind="classification", facts=facts))
    return runs


def test_at_80_columns_no_number_is_cut(tmp_path: Path) -> None:
    table = summary_rows(awkward(tmp_path))
    text = terminal(table)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    words = set(text.split())
    assert every_number(table) <= words
    folded = "".join(line[:20].strip() for line in text.splitlines())
    assert "[red]" in folded


def test_csv_keeps_full_numbers(tmp_path: Path) -> None:
    table = summary_rows(demo_runs(tmp_path))
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    for row, line in zip(table, lines, strict=True):
        assert row.value is not None
        assert float(line["value"]) == row.value.mean
        assert int(line["stored_bytes"]) == row.stored
    assert lines[0]["reference"] == "True"


def test_markdown_cells_cannot_be_broken_by_a_name(tmp_path: Path) -> None:
    text = to_markdown(summary_rows([make_run(tmp_path, "a|b<script>", formats=PLANS["bf16"])]))
    assert r"| a\|b&lt;script> |" in text


def test_the_same_records_give_the_same_words(tmp_path: Path) -> None:
    runs = awkward(tmp_path)
    assert to_csv(summary_rows(runs)) == to_csv(summary_rows(runs))
    assert terminal(summary_rows(runs)) == terminal(summary_rows(runs))


def test_no_runs_no_rows() -> None:
    assert summary_rows([]) == []
    assert to_markdown([]) == "\n"
    assert terminal([]).strip() == ""


def test_a_table_and_a_report_need_no_torch() -> None:
    code = (
        "import sys; from lowbit.report import draw, page, table; "
        "from lowbit.study import cells, results, summary_rows; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
