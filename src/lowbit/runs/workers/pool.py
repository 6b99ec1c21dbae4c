"""Runs on this machine, each in a process of its own, `jobs` at a time."""

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
from lowbit.core.progress import Watcher, bar
from lowbit.core.spec import RunSpec
from lowbit.runs.record import Record, load
from lowbit.runs.workers.process import Failure, Running, orphaned, start


@dataclass(frozen=True)
class Job:
    """One run and its folder."""

    run: RunSpec
    folder: Path


@dataclass(frozen=True)
class Ending:
    """How a job ended: with a record, or with what went wrong and its exit code."""

    job: Job
    record: Record | None
    message: str = ""
    exit_code: int = 0
    kept: bool = False
    """The record was there already."""


@dataclass(frozen=True)
class Order:
    """How to carry jobs out."""

    execution: Execution
    jobs: int
    rerun: bool = False
    memory: int | None = None
    """Bytes that each run may take, where several run at once."""
    show: Literal["bar", "nothing"] = "nothing"


OnEnding = Callable[[Ending], None]


def run_jobs(jobs: Sequence[Job], order: Order, on_ending: OnEnding) -> list[Ending]:
    """Start jobs as workers become free; returns how each ended.

    `on_ending` is called as each job ends. An interruption stops the jobs that are running; a
    killed worker loses no finished run, and the same call continues where it stopped.
    """
    order = replace(order, execution=_shared_threads(order), memory=_shared_memory(order))
    waiting = list(jobs)
    running: dict[Connection, tuple[Job, Running[tuple[Record, bool]]]] = {}
    endings: list[Ending] = []
    try:
        while waiting or running:
            while waiting and len(running) < order.jobs:
                job = waiting.pop(0)
                begun = start(work, job, order)
                running[begun.pipe] = (job, begun)
            for pipe in wait(list(running)):
                job, begun = running.pop(pipe)  # type: ignore[call-overload]
                ending = _ending(job, begun)
                endings.append(ending)
                on_ending(ending)
    finally:
        for _, begun in running.values():
            begun.stop()
    return endings


def _ending(job: Job, running: Running[tuple[Record, bool]]) -> Ending:
    answer = running.answer()
    if isinstance(answer, Failure):
        return Ending(job, None, answer.bug + answer.message, answer.exit_code)
    record, kept = answer
    code = 0 if record.status == "done" else 1
    return Ending(job, record, record.message, code, kept)


def _shared_threads(order: Order) -> Execution:
    """Several runs at once share the cores instead of fighting for them."""
    if order.execution.threads:
        return order.execution
    cores = psutil.cpu_count(logical=False) or 1
    return replace(order.execution, threads=max(1, cores // order.jobs))


def _shared_memory(order: Order) -> int | None:
    """Each run's part of what is free before the first begins; None for a run alone."""
    return None if order.jobs == 1 else psutil.virtual_memory().available // order.jobs


def work(job: Job, order: Order) -> tuple[Record, bool]:
    """Wait for the run's lock, then do what is left of the run; runs in a process of its own."""
    from lowbit.runs.run import run

    locks = job.folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(FileLock(locks / f"{job.folder.name}.lock"))
        if order.rerun:
            shutil.rmtree(job.folder, ignore_errors=True)
        record = load(job.folder)
        if record is not None and record.fingerprint == job.run.fingerprint:
            return record, True
        job.folder.mkdir(parents=True, exist_ok=True)
        watcher = stack.enter_context(_watcher(job, order))
        return run(job.run, job.folder, order.execution, order.memory, watcher), False


def _watcher(job: Job, order: Order) -> AbstractContextManager[Watcher]:
    return bar(job.run.name, shown=order.show == "bar", stop=orphaned)
