"""Runs on this machine, each in a process of its own, `jobs` at a time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection, wait

import psutil
from filelock import FileLock

from lowbit.core.execution import Execution
from lowbit.core.progress import Watcher, bar
from lowbit.engines.base import Cell, Ending, Engine, Order, Told
from lowbit.engines.process import Failure, Running, orphaned, start
from lowbit.record import Record, load


def carry_out(cells: Sequence[Cell], order: Order, told: Told) -> list[Ending]:
    """Start cells as places become free; an interruption stops those under way."""
    order = replace(order, execution=_shared_threads(order), memory=_shared_memory(order))
    waiting = list(cells)
    running: dict[Connection, tuple[Cell, Running]] = {}
    endings: list[Ending] = []
    try:
        while waiting or running:
            while waiting and len(running) < order.jobs:
                cell = waiting.pop(0)
                begun = start(work, cell, order)
                running[begun.pipe] = (cell, begun)
            for pipe in wait(list(running)):
                cell, begun = running.pop(pipe)  # type: ignore[call-overload]
                ending = _ending(cell, begun)
                endings.append(ending)
                told(ending)
    finally:
        for _, begun in running.values():
            begun.stop()
    return endings


def _ending(cell: Cell, begun: Running) -> Ending:
    answer = begun.answer()
    if isinstance(answer, Failure):
        return Ending(cell, None, answer.bug + answer.message, answer.exit_code)
    record, kept = answer
    code = 0 if record.status == "done" else 1
    return Ending(cell, record, record.message, code, kept)


def _shared_threads(order: Order) -> Execution:
    """Several runs at once share the cores instead of fighting for them."""
    if order.execution.threads:
        return order.execution
    cores = psutil.cpu_count(logical=False) or 1
    return replace(order.execution, threads=max(1, cores // order.jobs))


def _shared_memory(order: Order) -> int | None:
    """Each run's part of what is free before the first begins; None for a run alone."""
    return None if order.jobs == 1 else psutil.virtual_memory().available // order.jobs


def work(cell: Cell, order: Order) -> tuple[Record, bool]:
    """In the process: wait for whoever holds this run, then do what is left of it."""
    from lowbit.run import run

    locks = cell.folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(FileLock(locks / f"{cell.folder.name}.lock"))
        if order.rerun:
            shutil.rmtree(cell.folder, ignore_errors=True)
        found = load(cell.folder)
        if found is not None and found.fingerprint == cell.run.fingerprint:
            return found, True
        cell.folder.mkdir(parents=True, exist_ok=True)
        watcher = stack.enter_context(_watcher(cell, order))
        return run(cell.run, cell.folder, order.execution, order.memory, watcher), False


def _watcher(cell: Cell, order: Order) -> AbstractContextManager[Watcher]:
    return bar(cell.run.name, shown=order.show == "bar", stop=orphaned)


ENGINE = Engine("local", carry_out)
