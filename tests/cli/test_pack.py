"""pack, unpack and results, as a user types them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from helpers.command_line import lowbit
from helpers.records import make_run

STUDY = """
title = "Packed"
hypothesis = "Nothing is lost."
plans = ["bf16", "int2@64"]
seeds = [0, 1]

[[workload]]
model = "assets:lm-14m"
task = "wikitext2"
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(STUDY)
    for plan in ("bf16", "int2@64"):
        for seed in (0, 1):
            make_run(tmp_path / "results", plan, seed)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_packed_study_is_compared_and_listed_as_before_and_comes_back(study: Path) -> None:
    before = files(study / "results")
    status, compare = lowbit("status", study), lowbit("compare", study)
    packed = lowbit("pack", study)
    assert packed.code == 0, packed.err
    assert "4 runs in 5 files" in packed.out
    assert lowbit("status", study).out == status.out
    assert lowbit("compare", study).out == compare.out
    unpacked = lowbit("unpack", study)
    assert unpacked.code == 0, unpacked.err
    assert files(study / "results") == before


def test_a_torn_line_is_one_clear_message(study: Path) -> None:
    lowbit("pack", study)
    path = study / "results" / "runs.jsonl"
    path.write_text(path.read_text().replace('"seed":0', '"seed":1', 1))
    failed = lowbit("compare", study)
    assert failed.code == 1
    assert "runs.jsonl, line 1: edited or incomplete" in failed.error_line


def test_results_go_to_a_table(study: Path, tmp_path: Path) -> None:
    lowbit("pack", study)
    written = lowbit("results", study, "--to", tmp_path / "table.csv")
    assert written.code == 0, written.err
    with (tmp_path / "table.csv").open() as file:
        assert (
            len(list(csv.DictReader(file))) == 2
        )  # of the other plan the study declares another format
    wrong = lowbit("results", study, "--to", tmp_path / "table.xls")
    assert "should end in .csv or .parquet" in wrong.error_line


def test_a_study_without_runs_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    assert f"lowbit run {tmp_path}" in lowbit("pack", tmp_path).error_line
    assert "holds no packed runs" in lowbit("unpack", tmp_path).error_line
