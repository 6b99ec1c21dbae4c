"""A function call in a process of its own, with its errors brought back as data.

A process a run: its peak memory is its own, whatever it leaks dies with it, and if the system
kills it the study goes on. Where the system can fork safely, processes are forked from a server
that has imported torch once (`preload`), which saves seconds a run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from lowbit.core.errors import LowbitError, RunError, describe_os_error


@dataclass(frozen=True)
class Failure:
    """What went wrong in a process."""

    message: str
    exit_code: int
    bug: str = ""


@dataclass(frozen=True)
class Running:
    """A call under way; `answer` waits for it."""

    process: Any
    pipe: Connection

    def answer(self) -> Any:
        """The call's result, or a Failure."""
        try:
            result = self.pipe.recv()
        except EOFError:
            self.process.join()
            if self.process.exitcode == -signal.SIGINT:
                # Ctrl-C reaches the worker too, and even where this process ignores it.
                raise KeyboardInterrupt from None
            return Failure(_killed(self.process.exitcode), 1)
        self.process.join()
        return result

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()


def start(function: Callable[..., Any], *arguments: Any) -> Running:
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, _surroundings(), function, arguments))
    process.start()
    theirs.close()
    return Running(process, ours)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Start, wait, and raise what went wrong."""
    running = start(function, *arguments)
    try:
        return unwrap(running.answer())
    except KeyboardInterrupt:
        running.stop()
        raise


def unwrap(result: Any) -> Any:
    if not isinstance(result, Failure):
        return result
    if result.bug:
        sys.stderr.write(result.bug)
    error = RunError(result.message)
    error.exit_code = result.exit_code
    raise error


def _surroundings() -> dict[str, str]:
    """This process's environment as it is now: a server's is that of its first call."""
    return {**os.environ, "LOWBIT_PARENT": str(os.getpid())}


def _context() -> Any:
    """Forking is safe from a server that has started no threads; only Linux promises that."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lowbit.runs.workers.preload"])
    return context


def _work(
    pipe: Connection,
    surroundings: Mapping[str, str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(surroundings)
    pipe.send(guarded(function, *arguments))
    pipe.close()


def guarded(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result, or what went wrong as a Failure with a message for the person."""
    try:
        return function(*arguments)
    except LowbitError as error:
        return Failure(str(error), error.exit_code)
    except OSError as error:
        if error.errno is None:
            return Failure(f"{type(error).__name__}: {error}", 1, traceback.format_exc())
        return Failure(describe_os_error(error), 1)
    except Exception as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            said = str(error).strip().partition("\n")[0]
            return Failure(f"out of memory{': ' if said else ''}{said}", 1)
        return Failure(f"{type(error).__name__}: {error}", 1, traceback.format_exc())


def _killed(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (often: the system ran out of memory)" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint}; the same command goes on from there"
    return f"the process ended without an answer (code {code})"


def orphaned() -> bool:
    """Whether the process that asked for this work is gone, so that nobody waits for it."""
    parent = os.environ.get("LOWBIT_PARENT")
    try:
        # A dead process that nobody has buried yet is gone too.
        return parent is not None and psutil.Process(int(parent)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
