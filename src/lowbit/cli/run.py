"""What the commands do, torch-free here: whatever needs torch happens in a process of its own."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from lowbit.cli.child_process import _checked, _execution, _make_models, measure_run
from lowbit.cli.console import out, say
from lowbit.cli.study import report
from lowbit.core.errors import LowbitError, RunError
from lowbit.core.execution import Execution
from lowbit.core.files import read_jsonl
from lowbit.core.spec import RunSpec
from lowbit.report import wording
from lowbit.runs import isolated_cost
from lowbit.runs.pack import drop
from lowbit.runs.record import LOG, RECORD, check_current
from lowbit.runs.run_cost import RunCost
from lowbit.runs.store import FinishedRun, ResultsFolder
from lowbit.runs.workers.pool import Ending, Job, Order, run_jobs
from lowbit.runs.workers.process import call
from lowbit.study.results import read_results
from lowbit.study.study import Study

# -- run -------------------------------------------------------------------------------------------


def carry_out(study: Study, jobs: int, device: str | None, rerun: bool) -> None:
    """Run what is not done yet, then report."""
    execution = _execution(study, device)
    with _alone(study.results):
        todo = _todo(study, rerun)
        kept = len(study.runs) - len(todo)
        if kept:
            lost = sum(run.record.status == "diverged" for run in read_results(study).runs)
            say(
                f"{kept} of {len(study.runs)} runs are done already"
                + (f", {lost} of them diverged" if lost else "")
            )
        if todo:
            execution = _checked(study, execution)
            _make_models(study)
        order = Order(execution, jobs, rerun, show=_show(jobs))
        # Runs that take another's adapter begin when all others have ended.
        own = [job for job in todo if job.run.lender is None]
        taking = [job for job in todo if job.run.lender is not None]
        endings = _run(own, order, len(study.runs), kept)
        endings += _run(taking, order, len(study.runs), kept + len(own))
        _time_alone(study, execution)
        _explain(endings)
        if read_results(study).runs:
            report(study)
    _conclude(endings)


def _time_alone(study: Study, execution: Execution) -> None:
    """A few steps of each configuration alone, where its runs' own cost says too little."""

    def probe(run: RunSpec, execution: Execution, timed: bool) -> RunCost:
        return call(measure_run, run, execution, timed)

    results = ResultsFolder(study.results)
    for run in study.runs:
        finished = results.find(run.name)
        if finished is None or run.plan.adapter:
            continue
        if not isolated_cost.missing(finished.record, finished.isolated_cost):
            continue
        say(f"timing alone  {isolated_cost.name(run)}")
        try:
            isolated_cost.write(study.place(run), run, isolated_cost.measure(probe, run, execution))
        except LowbitError as error:
            say(f"  not timed: {error}")


def _todo(study: Study, rerun: bool) -> list[Job]:
    """Runs without a whole record; a record of other settings is refused unless `rerun`."""
    todo, results = [], ResultsFolder(study.results)
    if rerun:
        drop(study.results, {run.name for run in study.runs})
    for run in study.runs:
        folder = study.place(run)
        finished = None if rerun else results.find(run.name)
        if finished is None:
            if (folder / RECORD).exists() and not rerun:
                say(f"{folder.name}: its record is torn or incomplete; doing it again")
            todo.append(Job(run, folder))
        else:
            check_current(folder, finished.record, run)
    # Seed by seed, so that whatever is finished is a balanced set.
    return sorted(todo, key=lambda job: job.run.seed)


def _run(todo: list[Job], order: Order, total: int, kept: int) -> list[Ending]:
    done = [kept]

    def told(ending: Ending) -> None:
        done[0] += 1
        say(f"[{done[0]}/{total}] {_line(ending)}")

    return run_jobs(todo, order, told)


def _line(ending: Ending) -> str:
    name, record = ending.job.run.name, ending.record
    if record is None:
        return f"{name}  FAILED: {ending.message.strip().splitlines()[-1]}"
    if record.status == "diverged":
        return f"{name}  DIVERGED: {record.message}"
    metrics = record.metrics
    value = f"{record.metric} {metrics[record.metric]:.4f}"
    extra = f", perplexity {metrics['perplexity']:.2f}" if "perplexity" in metrics else ""
    return (
        f"{name}  {value}{extra}  ({record.cost.wall_s:.0f} s, "
        f"{record.cost.tokens_per_s:,.0f} tok/s)"
        + "".join(f"\n  warning: {each}" for each in _warnings(ending.job.folder))
    )


def _warnings(folder: Path) -> list[str]:
    """What the run's log warned of."""
    path = folder / LOG
    return [
        line["warning"]
        for line in (read_jsonl(path) if path.is_file() else ())
        if "warning" in line
    ]


def _explain(endings: Sequence[Ending]) -> None:
    """What the theory says to what runs warned of, once."""
    if any(_warnings(ending.job.folder) for ending in endings):
        say(textwrap.fill(wording.NOISY, 79))


def _conclude(endings: Sequence[Ending]) -> None:
    """The exit code of the worst; every failure said once more where it cannot be missed."""
    bad = [e for e in endings if e.exit_code]
    if not bad:
        return
    said = [f"{ending.job.run.name}: {ending.message.strip()}" for ending in bad]
    if len(endings) > 1:
        sys.stderr.writelines(f"error: {line}\n" for line in said)
        said = [f"{len(bad)} of {len(endings)} runs did not end well"]
    error = RunError(said[0])
    error.exit_code = max(e.exit_code for e in bad)
    raise error


def _show(jobs: int) -> Literal["bar", "nothing"]:
    return "bar" if jobs == 1 and sys.stderr.isatty() else "nothing"


@contextmanager
def _alone(results: Path) -> Any:
    """One process at a time on one folder of results; the second says so and waits."""
    locks = results / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / "study.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process works on {results}; waiting until it is done")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# -- dry run ---------------------------------------------------------------------------------------


# -- one run ---------------------------------------------------------------------------------------


AS_ARGUMENT = "lowbit adapt FOLDER"
"""How a single run is given a model's folder."""


def adapt_one(study: Study, device: str | None, rerun: bool, instead: str = AS_ARGUMENT) -> None:
    """`lowbit adapt`: a study of one run, and where its results lie.

    `instead`: how whoever calls is given a model's folder.
    """
    execution = _execution(study, device)
    with _alone(study.results):
        todo = _todo(study, rerun)
        if todo:
            execution = _checked(study, execution, instead)
            _make_models(study)
        else:
            say("done already")
        endings = _run(todo, Order(execution, 1, rerun, show=_show(1)), 1, 1 - len(todo))
    _explain(endings)
    folder = study.place(study.runs[0])
    finished = ResultsFolder(study.results).find(folder.name)
    if finished is not None:
        _describe(finished)
    _conclude(endings)


def _describe(finished: FinishedRun) -> None:
    folder, record = finished.folder, finished.record
    from lowbit.report.table import render, rows

    out().print(render(rows([finished]), min(out().width, 120)))
    if "word_perplexity" in record.metrics:
        token, word = record.metrics["perplexity"], record.metrics["word_perplexity"]
        say(f"perplexity {token:.2f} a token, {word:.1f} a word")
    for note in record.facts.notes:
        say(note, style="dim")
    say(f"record   {folder / RECORD}")
    if record.status == "done":
        ranked = any(site.final_rank for site in record.sites)
        form = "PEFT's format" if ranked else "a trained head alone, which PEFT does not load"
        say(f"adapter  {folder / 'adapter'} ({form})")
