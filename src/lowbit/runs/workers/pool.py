"""Runs several jobs at a time on this machine, each in a separate process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock

from lowbit.core.execution import Execution
from lowbit.core.progress import StepCallback, bar
from lowbit.core.spec import RunSpec
from lowbit.runs.record import Record, read_record
from lowbit.runs.workers.process import Failure, Running, orphaned, start


@dataclass(frozen=True)
class PoolJob:
    """One run and its folder."""

    run: RunSpec
    folder: Path


@dataclass(frozen=True)
class RunEnding:
    """How a run ended: its record, or an error message with an exit code."""

    job: PoolJob
    record: Record | None
    message: str = ""
    exit_code: int = 0
    already_finished: bool = False
    """Whether another process had finished the run before its turn came."""


@dataclass(frozen=True)
class PoolOptions:
    """Options of a pool: execution settings, the number of runs at a time, and progress bars."""

    execution: Execution
    jobs: int
    rerun: bool = False
    memory: int | None = None
    """Bytes that each run may use, if several run at once."""
    show: Literal["bar", "nothing"] = "nothing"


OnEnding = Callable[[RunEnding], None]


def run_jobs(jobs: Sequence[PoolJob], options: PoolOptions, on_ending: OnEnding) -> list[RunEnding]:
    """Run all jobs, at most `options.jobs` at a time; return how each run ended.

    `on_ending` is called as each run ends. An interruption stops the runs in progress. Finished
    runs are never lost, and the same call resumes the others.
    """
    options = replace(options, execution=_shared_threads(options), memory=_shared_memory(options))
    waiting = list(jobs)
    running: dict[Connection, tuple[PoolJob, Running[tuple[Record, bool]]]] = {}
    endings: list[RunEnding] = []
    try:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                job = waiting.pop(0)
                process = start(work, job, options)
                running[process.pipe] = (job, process)
            for pipe in wait(list(running)):
                job, process = running.pop(pipe)  # type: ignore[call-overload]
                ending = _ending(job, process)
                endings.append(ending)
                on_ending(ending)
    finally:
        for _, process in running.values():
            process.stop()
    return endings


def _ending(job: PoolJob, running: Running[tuple[Record, bool]]) -> RunEnding:
    answer = running.answer()
    if isinstance(answer, Failure):
        return RunEnding(job, None, answer.bug + answer.message, answer.exit_code)
    record, already_finished = answer
    code = 0 if record.status == "done" else 1
    return RunEnding(job, record, record.message, code, already_finished)


def _shared_threads(options: PoolOptions) -> Execution:
    """Divide the cores among the runs, unless the number of threads is set."""
    if options.execution.threads:
        return options.execution
    cores = psutil.cpu_count(logical=False) or 1
    return replace(options.execution, threads=max(1, cores // options.jobs))


def _shared_memory(options: PoolOptions) -> int | None:
    """Divide the free memory among the runs; None if one run has the machine to itself."""
    return None if options.jobs == 1 else psutil.virtual_memory().available // options.jobs


def work(job: PoolJob, options: PoolOptions) -> tuple[Record, bool]:
    """Wait for the run's lock, then start or resume the run. Called in a separate process."""
    from lowbit.runs.run import run

    locks = job.folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(FileLock(locks / f"{job.folder.name}.lock"))
        if options.rerun:
            shutil.rmtree(job.folder, ignore_errors=True)
        record = read_record(job.folder)
        if record is not None and record.fingerprint == job.run.fingerprint:
            return record, True
        job.folder.mkdir(parents=True, exist_ok=True)
        on_step = stack.enter_context(_watcher(job, options))
        return run(job.run, job.folder, options.execution, options.memory, on_step), False


def _watcher(job: PoolJob, options: PoolOptions) -> AbstractContextManager[StepCallback]:
    return bar(job.run.name, shown=options.show == "bar", stop=orphaned)
