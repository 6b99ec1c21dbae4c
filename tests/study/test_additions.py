"""Workloads that score another workload's adapters, and seeds and text added to a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lowbit.core.errors import UserError
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.study import additions
from lowbit.study.additions import Additions, MoreText
from lowbit.study.forecasts import points, reference_run
from lowbit.study.study import Study, read_study

STUDY = """
title = "Again"
hypothesis = "What was trained can be scored on more."
plans = ["own", "low"]
seeds = [0, 1]
tasks = ["demo"]

[[workload]]
model = "demo:tiny"
task = {name = "demo", scored_limit = 10}

[[workload]]
model = "demo:tiny"
task = {name = "demo", tag = "more"}
adapters = "demo"

[plan.own]
rank = 4

[plan.low]
format = "int4@64"
rank = 4

[plan.moved]
format = "int4@64"
adapter = "own"

[plan.bare]
format = "int4@64"
adapter = "none"

[plan.T]
format = "ternary@64"
[plan.T.ternary]
reactivation = 0.01

[[part]]
name = "moved"
title = "Moved"
plans = ["own", "moved"]

[[part]]
name = "again"
title = "On more text"
plans = ["own", "low", "moved", "bare"]
tasks = ["demo (more)"]

[[forecast]]
kind = "transplanted"
part = "moved"

[[forecast]]
kind = "transplanted"
part = "again"

[[forecast]]
kind = "adapted"
part = "again"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    return tmp_path


def runs_of(study: Study, plan: str, task: str) -> list[RunSpec]:
    return [r for r in study.runs if (r.plan.name, r.task.display_name) == (plan, task)]


def test_a_workload_of_adapters_trains_nothing_and_takes_those_of_its_seeds(folder: Path) -> None:
    study = read_study(str(folder))
    first = {(r.plan.name, r.seed): r for r in study.runs if r.task.display_name == "demo"}
    for plan, of in (("own", "own"), ("low", "low"), ("moved", "own")):
        again = runs_of(study, plan, "demo (more)")
        assert [run.seed for run in again] == [0, 1]
        for run in again:
            assert run.plan.adapter == of
            assert run.adapter_run == first[of, run.seed].name
            assert run.plan.lent == first[of, run.seed].fingerprint
    assert {run.adapter_run for run in runs_of(study, "bare", "demo (more)")} == {None}
    assert not any(run.plan.on for run in study.runs if run.task.display_name == "demo")
    assert "on" not in first["moved", 0].declared()["plan"]


def test_a_gap_on_more_text_is_counted_from_the_same_adapter_there(folder: Path) -> None:
    study = read_study(str(folder))
    transplanted, again, adapted = study.forecasts
    (here, _), (there, _) = (runs_of(study, "moved", t) for t in ("demo", "demo (more)"))
    (own, _), (owned, _) = (runs_of(study, "own", t) for t in ("demo", "demo (more)"))
    assert reference_run(study, transplanted, here) == own
    assert reference_run(study, again, there) == owned
    (low, _) = runs_of(study, "low", "demo (more)")
    assert reference_run(study, adapted, low) == owned
    assert {run.task.display_name for point in points(study) for run in point.runs} == {"demo"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('adapters = "demo"', 'adapters = "demi"', "line 15: no workload 'demi' that trains"),
        ('adapters = "demo"', 'adapters = "demo (more)"', "that trains adapters"),
        ('"moved", "bare"]', '"T", "bare"]', "plan 'T' trains its base"),
        ('"moved", "bare"]\n', '"moved", "bare"]\nseeds = [7]\n', "does not run on demo with seed"),
    ],
)
def test_mistakes_in_such_a_workload_are_named(
    folder: Path, old: str, new: str, words: str
) -> None:
    path = folder / "study.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=words):
        read_study(str(folder))


def test_additions_are_read_as_written(folder: Path) -> None:
    results = folder / "results"
    results.mkdir()
    assert additions.read(results) == Additions()
    text = MoreText("moved", "demo", ("own", "moved"), 25)
    additions.write(results, Additions({"moved": (2,)}, (text,)))
    assert additions.read(results) == Additions({"moved": (2,)}, (text,))
    before, study = len(STUDY), read_study(str(folder))
    assert before == len((folder / "study.toml").read_text()), "what is written stays"
    (part,) = (p for p in study.parts if p.name == additions.part_name(text))
    assert additions.original_part(part.name) == "moved"
    assert part.seeds == (0, 1, 2)
    again = study.runs_of(part)
    assert {(r.plan.name, r.seed) for r in again} == {
        (plan, seed) for plan in ("own", "moved") for seed in (0, 1, 2)
    }
    assert {(run.task.scored_limit, run.task.scored_rest) for run in again} == {(25, 0)}
    assert all(run.adapter_run in {r.name for r in study.runs} for run in again)
    assert [f.part for f in study.forecasts].count(part.name) == 1
    # A second part with the same text of the same task has no second workload.
    additions.write(results, Additions({}, (text, replace(text, part="main", plans=("low",)))))
    study = read_study(str(folder))
    assert {r.plan.name for r in study.runs if r.task.scored_limit == 25} == {"own", "moved", "low"}
    additions.write(results, Additions({}, (replace(text, task="elsewhere"),)))
    with pytest.raises(UserError, match="'elsewhere' that the study does not have"):
        read_study(str(folder))
    (results / additions.FILE).write_text('{"seeds": {}}')
    with pytest.raises(UserError, match="is damaged"):
        read_study(str(folder))


def test_text_that_forecasts_are_calibrated_on_is_not_added(folder: Path) -> None:
    """Where what training leaves is scored, more of it would be: the task's own is added."""
    path = folder / "study.toml"
    cut = STUDY.replace("scored_limit = 10}", "scored_limit = 10, rest = 20}")
    path.write_text(cut, encoding="utf-8")
    (folder / "results").mkdir()
    text = MoreText("moved", "demo", ("own", "moved"), 25)
    additions.write(folder / "results", Additions({}, (text,)))
    study = read_study(str(folder))
    again = [run.task for run in study.runs if run.task.scored_limit == 25]
    assert {(task.rest, task.scored_rest) for task in again} == {(20, 10)}
    # The same where the study says it of all its tasks.
    every = "[task]\nrest = 20\nscored_limit = 10\n\n[[workload]]\nmodel"
    path.write_text(STUDY.replace("[[workload]]\nmodel", every, 1).replace(
        'name = "demo", scored_limit = 10', 'name = "demo"'
    ), encoding="utf-8")  # fmt: skip
    study = read_study(str(folder))
    again = [run.task for run in study.runs if run.task.scored_limit == 25]
    assert {(task.rest, task.scored_rest) for task in again} == {(20, 10)}


def test_the_run_of_an_adapter_on_another_task_is_matched_by_the_tasks_display_name() -> None:
    task = TaskSpec("notes", tag="more")
    run = RunSpec("m", task, Plan("p", adapter="own", on="notes (half)"), TrainSpec(), 3)
    assert run.adapter_run == "m-notes_half-own-seed3"
    assert replace(run, plan=replace(run.plan, on="notes")).adapter_run == "m-notes-own-seed3"
    assert replace(run, plan=replace(run.plan, on="")).adapter_run == "m-notes_more-own-seed3"
