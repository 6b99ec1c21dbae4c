"""A record counts only if it is intact; it names its run and the facts that comparisons need."""

from __future__ import annotations

import json
import math
import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from helpers.records import FACTS, make_run
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.errors import RunError, UserError
from lowbit.core.execution import ONEDNN, Execution
from lowbit.core.files import read_jsonl, to_json, write_atomic, write_jsonl
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, Rule, RunSpec, TaskSpec, TrainSpec
from lowbit.core.toml import check
from lowbit.layers import matmul
from lowbit.runs import device as machine
from lowbit.runs.record import (
    ADAPTER,
    COMPARED,
    LOG,
    RECORD,
    SCORES,
    check_current,
    differing_facts,
    read_record,
    resume_key,
    write_record,
)
from lowbit.runs.store import FinishedRun

SPEC = RunSpec("m", TaskSpec("t"), Plan("p", rule=(Rule(role="ffn"),)), TrainSpec(), 0)


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    """A finished run with an adapter."""
    finished = make_run(tmp_path, "bf16")
    folder, record = finished.folder, finished.record
    write_atomic(folder / ADAPTER / "adapter_model.safetensors", b"weights")
    write_atomic(folder / ADAPTER / "adapter_config.json", b"{}")
    return folder, write_record(folder, record)


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if moment == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"old"}


def test_a_write_makes_its_folders_and_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"a long text")
    write_atomic(path, b"short")
    assert path.read_bytes() == b"short"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=4), st.integers() | st.floats(allow_nan=False,
                        allow_infinity=False) | st.text(max_size=4) | st.none(), max_size=4),
        max_size=5,
    )
)  # fmt: skip
def test_lines_come_back_as_they_were_written(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    write_jsonl(path, rows)
    assert list(read_jsonl(path)) == rows


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_record_has_no_number_that_is_not_finite(bad: float, run: FinishedRun) -> None:
    folder, record = run
    before = (folder / RECORD).read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"loss": bad})
    with pytest.raises(RunError, match="is not finite"):
        write_record(folder, replace(record, metrics={"loss": bad}))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(folder, replace(record, cost=replace(record.cost, wall_s=bad)))
    assert (folder / RECORD).read_bytes() == before


def test_a_run_has_metrics_exactly_when_it_is_done(run: FinishedRun, tmp_path: Path) -> None:
    folder, record = run
    for wrong in (replace(record, status="diverged"), replace(record, metrics={})):
        with pytest.raises(RunError, match="metrics exactly when its run is done"):
            write_record(folder, wrong)
    finished = make_run(tmp_path, "int2@64", status="diverged", message="no longer finite")
    other, diverged = finished.folder, finished.record
    assert diverged.metrics == {}
    assert not (other / SCORES).exists()
    assert read_record(other) == diverged


# -- reading ---------------------------------------------------------------------------------------


def test_a_finished_run_is_read_back_equal(run: FinishedRun) -> None:
    folder, record = run
    assert read_record(folder) == record
    assert set(record.files) == {
        LOG,
        SCORES,
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }


@given(data=st.data())
def test_a_record_damaged_anywhere_does_not_count(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_run(tmp_path_factory.mktemp("torn"), "bf16").folder
    whole = (folder / RECORD).read_bytes()
    # The last character is a line's end, and without it the record is still whole.
    (folder / RECORD).write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    assert read_record(folder) is None


@pytest.mark.parametrize("text", ["", "null", "3", "[]", '"x"', "{}", '{"schema": 1}', "\x00" * 64])
def test_a_file_that_is_not_a_record_does_not_count(text: str, run: FinishedRun) -> None:
    (run[0] / RECORD).write_text(text)
    assert read_record(run[0]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"files": []},
        {"facts": {}},
        {"sites": [3]},
        {"cost": None},
    ],
)
def test_a_record_of_another_shape_is_no_record(change: dict[str, Any], run: FinishedRun) -> None:
    body = json.loads((run[0] / RECORD).read_text())
    (run[0] / RECORD).write_text(json.dumps({**body, **change}))
    assert read_record(run[0]) is None


def test_a_record_of_another_schema_is_an_error(run: FinishedRun) -> None:
    body = json.loads((run[0] / RECORD).read_text())
    (run[0] / RECORD).write_text(json.dumps({**body, "schema": 2}))
    with pytest.raises(RunError, match="has schema 2"):
        read_record(run[0])


@pytest.mark.parametrize("name", [LOG, SCORES, "adapter/adapter_model.safetensors"])
@pytest.mark.parametrize("harm", ["truncated", "altered", "longer"])
def test_a_file_that_is_not_what_was_recorded_makes_the_run_none(
    name: str, harm: str, run: FinishedRun
) -> None:
    path = run[0] / name
    content = path.read_bytes()
    harmed = {
        "truncated": content[:-1],
        "altered": bytes([content[0] ^ 1]) + content[1:],
        "longer": content + b"\n",
    }
    path.write_bytes(harmed[harm])
    assert read_record(run[0]) is None
    path.write_bytes(content)
    assert read_record(run[0]) == run[1]


@pytest.mark.parametrize("name", [LOG, SCORES, RECORD])
def test_a_missing_file_makes_the_run_none(name: str, run: FinishedRun) -> None:
    (run[0] / name).unlink()
    assert read_record(run[0]) is None


def test_the_adapter_may_be_absent_since_it_is_not_committed(run: FinishedRun) -> None:
    folder, record = run
    for path in (folder / ADAPTER).iterdir():
        path.unlink()
        assert read_record(folder) == record


def test_a_folder_that_is_not_there_is_no_run(tmp_path: Path) -> None:
    assert read_record(tmp_path / "nowhere") is None


# -- whose record it is ----------------------------------------------------------------------------


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every declared value of a spec lies."""
    if is_dataclass(value):
        return [p for f in fields(value) for p in leaves(getattr(value, f.name), (*path, f.name))]
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return [p for i, item in enumerate(value) for p in leaves(item, (*path, i))]
    return [path]


OTHER: dict[str, Any] = {
    "role": "attention", "depth": (1,), "rank": 5, "base": "trained", "format": "int4@64",
    "kind": "linear", "compute": "bf16", "keep": "last", "merge": True,
}  # fmt: skip


def another(name: str, value: Any) -> Any:
    """Another value that the setting may have."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, float):
        return value / 2 or 0.5
    return value + 1 if isinstance(value, int) else f"{value}x"


def changed(value: Any, path: tuple[str | int, ...]) -> Any:
    """The same spec with another value at `path`."""
    head, *rest = path
    if isinstance(head, int):
        return (*value[:head], changed(value[head], tuple(rest)), *value[head + 1 :])
    old = getattr(value, head)
    return replace(value, **{head: changed(old, tuple(rest)) if rest else another(head, old)})


@pytest.mark.parametrize("path", leaves(SPEC), ids=lambda path: ".".join(map(str, path)))
def test_every_declared_value_is_in_the_fingerprint(path: tuple[str | int, ...]) -> None:
    spec = replace(SPEC, plan=replace(SPEC.plan, adapter="16"))  # `merge` stands beside it alone
    other = changed(spec, path)
    assert other != spec
    assert other.fingerprint != spec.fingerprint


def test_the_fingerprint_is_the_same_wherever_the_spec_was_written() -> None:
    copy = check(RunSpec, json.loads(json.dumps(SPEC.declared())), None)
    assert copy == SPEC
    assert copy.fingerprint == SPEC.fingerprint
    assert len(SPEC.fingerprint) == 16


def test_execution_settings_do_not_change_the_fingerprint() -> None:
    declared = str(SPEC.declared())
    assert not [f.name for f in fields(Execution) if f"'{f.name}'" in declared]


def test_the_names_of_runs_that_differ_in_the_matrix_differ() -> None:
    varied = [
        SPEC,
        replace(SPEC, seed=1),
        replace(SPEC, model="n"),
        replace(SPEC, plan=Plan("q")),
        replace(SPEC, task=TaskSpec("u")),
    ]
    assert len({run.name for run in varied}) == len(varied)


@pytest.mark.parametrize("name", ["a b/c", "../up", "nf4@64+dq", "x:y", "*"])
def test_a_runs_name_is_one_folders_name(name: str) -> None:
    spec = replace(SPEC, model=f"org/{name}", task=TaskSpec(f"/x/{name}.txt"), plan=Plan(name))
    assert Path(spec.name).name == spec.name
    assert not set(spec.name) & set('/\\:*?"<>| ')


def test_a_record_of_other_settings_is_refused_with_each_difference(run: FinishedRun) -> None:
    folder, record = run
    spec = check(RunSpec, record.spec, None)
    check_current(folder, record, spec)
    other = replace(
        spec,
        train=replace(spec.train, lr=0.5, epochs=7),
        plan=replace(spec.plan, schedule=RankSchedule("linear")),
    )
    with pytest.raises(UserError) as error:
        check_current(folder, record, other)
    said = str(error.value)
    assert said.startswith(f"{folder.name}: recorded with other settings (")
    assert "plan.schedule.kind: 'fixed' -> 'linear'" in said
    assert "train.epochs: 3 -> 7" in said
    assert "train.lr: 0.0002 -> 0.5" in said
    assert "--rerun" in said
    assert said.count("->") == 3


# -- what it may be compared with ------------------------------------------------------------------


def other_fact(name: str) -> dict[str, Any]:
    value = getattr(FACTS, name)
    return {name: value + 1 if isinstance(value, int) else (*value, "x") if name == "notes"
            else f"{value}x"}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(FACTS)])
def test_records_are_compared_unless_a_fact_that_matters_differs(name: str, tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", "bf16").record
    two = make_run(tmp_path / "two", "int2@64", facts=replace(FACTS, **other_fact(name))).record
    assert (
        differing_facts(one, two)
        == differing_facts(two, one)
        == ([name] if name in COMPARED else [])
    )


def test_records_without_simd_can_be_compared(tmp_path: Path) -> None:
    old = make_run(tmp_path / "old", "bf16", facts=replace(FACTS, simd="")).record
    new = make_run(tmp_path / "new", "int2@64", facts=replace(FACTS, simd="AVX512")).record
    assert differing_facts(old, new) == differing_facts(new, old) == []
    other = make_run(
        tmp_path / "other", "int2@64", facts=replace(FACTS, simd=f"AVX512{ONEDNN}")
    ).record
    assert differing_facts(old, other) == differing_facts(other, new) == ["simd"], (
        "MKL's were all of them"
    )


def test_the_vector_width_of_a_cpu_is_recorded() -> None:
    cpu = machine.facts(machine.cpu_machine(), "", "", ())
    assert cpu.simd == matmul.simd_name()


def test_all_facts_that_differ_are_listed(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", "bf16").record
    other = replace(FACTS, device="cuda", threads=9, cores=64, data="else")
    two = make_run(tmp_path / "two", "bf16", facts=other).record
    assert differing_facts(one, two) == ["device", "threads", "data"]


@pytest.mark.parametrize("name", COMPARED)
def test_a_checkpoint_resumes_only_a_run_whose_record_would_be_comparable(name: str) -> None:
    key = resume_key(SPEC, FACTS)
    assert resume_key(SPEC, replace(FACTS, **other_fact(name))) != key
    assert resume_key(replace(SPEC, seed=1), FACTS) != key
    assert resume_key(SPEC, replace(FACTS, memory=1, system="else", notes=())) == key
