"""A study's records are read once, and are exported as one table."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from helpers.records import demo_runs

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.report import draw, page
from lowbit.runs import store
from lowbit.runs.record import Record
from lowbit.study.predicted_vs_observed import (
    late_forecasts,
    points_without_forecast,
    predicted_gaps,
    refused_pairs,
)
from lowbit.study.results import read_results
from lowbit.study.results_table import results_rows, write_results
from lowbit.study.study import Study, read_study
from lowbit.study.verdicts import judge

PLANNER = Path(__file__).parents[2] / "studies" / "planner"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    runs = demo_runs(tmp_path)
    specs = tuple(
        RunSpec("assets:lm-14m", TaskSpec("wikitext2"), Plan(run.plan), TrainSpec(), run.seed)
        for run in runs
    )
    return Study(tmp_path, "t", "h", (), specs, Execution(), tmp_path)


@pytest.mark.late
def test_a_report_of_the_planner_study_reads_each_record_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """771 runs: verdicts, gaps, figures and tables together."""
    reads: Counter[str] = Counter()

    class Counted(store.FinishedRun):
        def __init__(self, name: str, record: Record, results: store.ResultsFolder) -> None:
            reads[name] += 1
            super().__init__(name, record, results)

    scored: Counter[str] = Counter()
    scores = store.ResultsFolder.scores

    def counted_scores(folder: store.ResultsFolder, name: str) -> store.Scores:
        scored[name] += 1
        return scores(folder, name)

    monkeypatch.setattr(store, "FinishedRun", Counted)
    monkeypatch.setattr(store.ResultsFolder, "scores", counted_scores)
    results = read_results(read_study(str(PLANNER)))
    judge(results)
    gaps = predicted_gaps(results)
    for check in (refused_pairs, points_without_forecast, late_forecasts):
        check(results)
    contents = page.contents(results, "")
    for part, setting in draw.part_settings(results):
        list(draw.data_of(part, setting, draw.ALL))
    assert gaps == list(contents.predicted)
    assert set(reads.values()) == {1}
    assert len(reads) == len(results.runs) == 771
    assert set(scored.values()) == {1}


def test_every_run_is_a_row_with_the_same_columns(study: Study) -> None:
    rows = results_rows(read_results(study))
    assert [row["run"] for row in rows] == [run.name for run in study.runs]
    assert len({tuple(row) for row in rows}) == 1
    first = rows[0]
    assert first["train.lr"] == study.runs[0].train.lr
    assert first["metrics.perplexity"] > 1
    assert first["bytes.stored"] > 0
    assert first["facts.device"] == "cpu"


def test_the_table_is_written_by_its_ending(study: Study, tmp_path: Path) -> None:
    results = read_results(study)
    assert write_results(results, tmp_path / "t.csv") == len(study.runs)
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["metrics.loss"]) for row in rows] == [
        run.record.metrics["loss"] for run in results.runs
    ]
    with pytest.raises(UserError, match=r"should end in \.csv or \.parquet"):
        write_results(results, tmp_path / "t.xlsx")


def test_parquet_has_the_numbers_of_the_csv(study: Study, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_results(read_results(study), tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.column("metrics.loss").to_pylist() == [
        run.record.metrics["loss"] for run in read_results(study).runs
    ]


def test_a_study_without_runs_gives_no_table(study: Study, tmp_path: Path) -> None:
    empty = Study(tmp_path, "t", "h", (), study.runs, Execution(), tmp_path / "nowhere")
    with pytest.raises(UserError, match="no finished run"):
        write_results(read_results(empty), tmp_path / "t.csv")
