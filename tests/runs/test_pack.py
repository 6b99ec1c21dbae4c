"""Packed results restore every byte, are read like folders, and every edit is detected."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.records import FACTS, PLANS, demo_runs, make_run
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.errors import RunError
from lowbit.runs import packed_lines
from lowbit.runs.pack import drop, pack, packed_files, unpack
from lowbit.runs.packed_lines import LOGS, RUNS, SITES
from lowbit.runs.store import FORECAST_FOLDER, ResultsFolder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    demo_runs(tmp_path)
    make_run(tmp_path, "int2@64", 7, status="diverged", message="loss is nan")
    make_run(tmp_path, "bf16", 3, task="sst2", kind="classification")
    (tmp_path / "solo").mkdir()
    (tmp_path / "solo" / "bf16.json").write_text('{"peak_bytes":1}\n')
    (tmp_path / FORECAST_FOLDER).mkdir()
    (tmp_path / FORECAST_FOLDER / "untrained.json").write_text('{\n "about": "x"\n}\n')
    return tmp_path


def test_unpacking_gives_every_byte_back(results: Path) -> None:
    before = contents(results)
    packed = pack(results)
    assert packed.runs == len(PLANS) * 2 + 2
    assert packed.files == len(packed_files(results)) == 9
    assert not list(results.glob("*/record.json"))
    unpack(results)
    assert contents(results) == before


def test_packed_runs_are_read_as_their_folders_were(results: Path) -> None:
    folder = ResultsFolder(results)
    before = {name: folder.find(name) for name in folder.names()}
    logs = {name: run.log for name, run in before.items() if run}
    scores = {n: r.scores for n, r in before.items() if r and r.record.status == "done"}
    forecast = folder.forecast("untrained")
    pack(results)
    again = ResultsFolder(results)
    assert set(again.names()) == set(before)
    for name, run in before.items():
        packed = again.find(name)
        assert run is not None
        assert packed is not None
        assert packed.record == run.record
        assert packed.log == logs[name]
    for name, columns in scores.items():
        packed = again.find(name)
        assert packed is not None
        for field in ("example", "document", "sum", "count"):
            assert np.array_equal(getattr(packed.scores, field), getattr(columns, field))
    assert again.forecast("untrained") == forecast


def test_packing_again_adds_new_runs_and_leaves_the_others(results: Path) -> None:
    pack(results)
    lines = (results / RUNS).read_text().splitlines()
    assert pack(results).runs == len(lines)
    make_run(results, "bf16", 9)
    pack(results)
    more = (results / RUNS).read_text().splitlines()
    assert set(lines) < set(more)
    assert len(more) == len(lines) + 1


def test_an_interrupted_packing_is_finished_by_the_same_command(results: Path) -> None:
    before = contents(results)
    whole = {name: text for name, text in before.items() if not name.startswith(("solo", "fore"))}
    pack(results)
    for name, text in whole.items():  # as if nothing had been removed yet
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).write_bytes(text)
    pack(results)
    assert not list(results.glob("*/record.json"))
    unpack(results)
    assert contents(results) == before


def test_files_that_are_not_packed_stay(results: Path) -> None:
    run = next(results.glob("*bf16-seed0"))
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    torn = next(results.glob("*bf16-seed1"))
    (torn / "scores.jsonl").write_text("{")
    packed = pack(results)
    assert packed.left == (torn.name,)
    assert (torn / "record.json").is_file()
    assert [path.name for path in run.iterdir()] == ["adapter"]


Edit = Callable[[str], str]
EDITS: dict[str, Edit] = {
    "a number": lambda text: (
        text.replace('"sum":[', '"sum":[1', 1)
        .replace(":0,", ":9,", 1)
        .replace("[[0,5,", "[[0,6,", 1)
    ),
    "torn": lambda text: text[: len(text) // 2],
    "no newline": lambda text: text[:-1],
    "a line twice": lambda text: text + text.splitlines()[0] + "\n",
}


def read_everything(results: Path) -> None:
    folder = ResultsFolder(results)
    for name in folder.names():
        run = folder.find(name)
        assert run is not None
        assert run.log is not None
        assert run.record.status == "diverged" or len(run.scores.sum)


@pytest.mark.parametrize("file", [RUNS, SITES, LOGS, "scores-wikitext2.jsonl"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_line_is_named_and_nothing_is_lost(results: Path, file: str, edit: str) -> None:
    pack(results)
    path = results / file
    path.write_text(EDITS[edit](path.read_text()))
    before = contents(results)
    for read in (read_everything, unpack):
        with pytest.raises(RunError, match=path.name):
            read(results)
    assert contents(results) == before


def test_a_score_line_of_another_packing_is_refused(results: Path) -> None:
    """Its own digest holds, and the run's line knows another."""
    pack(results)
    path = results / "scores-wikitext2.jsonl"
    lines = path.read_text().splitlines()
    body, _ = packed_lines.open_line(lines[0], path, 1)
    body["sum"][0] += 1
    path.write_text("\n".join([packed_lines.seal_line(body)[0], *lines[1:]]) + "\n")
    run = ResultsFolder(results).find(body["run"])
    assert run is not None
    with pytest.raises(RunError, match="line 1: edited or incomplete"):
        _ = run.scores


def test_a_folder_and_a_line_that_disagree_are_refused_and_neither_is_lost(results: Path) -> None:
    pack(results)
    run = make_run(results, "bf16", 0, facts=replace(FACTS, cpu="another"))
    before = contents(results)
    with pytest.raises(RunError, match="different records of one run"):
        ResultsFolder(results).find(run.name)
    for command in (pack, unpack):
        with pytest.raises(RunError, match="different records of one run"):
            command(results)
    assert contents(results) == before
    pack(results, replace=True)
    kept = ResultsFolder(results).find(run.name)
    assert kept is not None
    assert kept.record.facts.cpu == "another"


def test_a_run_that_is_done_again_leaves_the_packed_files(results: Path) -> None:
    pack(results)
    name = ResultsFolder(results).names()[0]
    drop(results, {name})
    assert ResultsFolder(results).find(name) is None
    assert len((results / RUNS).read_text().splitlines()) == len(PLANS) * 2 + 1


def test_a_record_of_another_schema_is_named_and_kept(results: Path) -> None:
    path = next(results.glob("*bf16-seed0/record.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(RunError, match="schema 99"):
        ResultsFolder(results).find(path.parent.name)
    assert path.is_file()


VALUES = st.none() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.dictionaries(st.sampled_from("abcd"), VALUES | st.dictionaries(st.text(max_size=2), VALUES)),
    max_size=5,
)


@given(ROWS)
def test_any_log_comes_back(rows: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    line = json.loads(json.dumps(packed_lines.packed_log(text)))
    assert packed_lines.log_text(line) == text
    assert packed_lines.log_rows(line) == rows


@given(st.lists(st.tuples(st.integers(0, 99), VALUES), max_size=6), st.booleans())
def test_any_scores_come_back(rows: list[tuple[int, object]], spaced: bool) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    bodies = [{"example": example, "sum": value, "count": 1} for example, value in rows]
    text = "".join(json.dumps(body, separators=separators) + "\n" for body in bodies)
    line, shared = packed_lines.packed_scores(text)
    assert packed_lines.scores_text(line, shared) == text
    assert packed_lines.score_rows(line, shared) == bodies
