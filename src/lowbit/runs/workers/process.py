"""Calls a function in a separate process and returns errors as values.

Each run has a separate process. So its peak memory can be measured, leaks end with it, and a study
continues if the system kills one run. Where forking is safe, processes are forked from a server
that has imported torch already (`preload`), which saves seconds per run.
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
from typing import Any, Generic, ParamSpec, TypeVar

import psutil

from lowbit.core.errors import LowbitError, RunError, describe_os_error
from lowbit.core.progress import phases

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Failure:
    """An error in a separate process: message, exit code, and traceback if it is a bug."""

    message: str
    exit_code: int
    bug: str = ""


@dataclass(frozen=True)
class Running(Generic[Returned]):
    """A call in progress in another process."""

    process: Any
    pipe: Connection

    def answer(self) -> Returned | Failure:
        """Wait for the function's result, or for a Failure."""
        try:
            received: Returned | Failure = self.pipe.recv()
        except EOFError:
            self.process.join()
            if self.process.exitcode == -signal.SIGINT:
                # Ctrl-C reaches the worker too, even if this process ignores it.
                raise KeyboardInterrupt from None
            return Failure(_killed(self.process.exitcode), 1)
        self.process.join()
        return received

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
        self.process.join()


def start(
    function: Callable[Arguments, Returned], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Running[Returned]:
    """Start a call in a new process."""
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(theirs, _environment(), function, arguments, named)
    )
    process.start()
    theirs.close()
    return Running(process, ours)


def call(
    function: Callable[Arguments, Returned], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Returned:
    """Call a function in a new process; return what it returns, or raise its error."""
    running = start(function, *arguments, **named)
    try:
        return unwrap(running.answer())
    except KeyboardInterrupt:
        running.stop()
        raise


def start_showing(
    function: Callable[..., Returned], show: bool, *arguments: Any, **named: Any
) -> Running[Returned]:
    """`start` for a function that takes `on_progress`; the new process writes it to stderr."""
    return start(_with_progress, function, show, arguments, named)


def call_showing(
    function: Callable[..., Returned], show: bool, *arguments: Any, **named: Any
) -> Returned:
    """`call` for a function that takes `on_progress`; the new process writes it to stderr."""
    return call(_with_progress, function, show, arguments, named)


def _with_progress(
    function: Callable[..., Returned],
    show: bool,
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
) -> Returned:
    """Runs in the new process."""
    return function(*arguments, **named, on_progress=phases(show, stop=orphaned))


def require_main_guard() -> None:
    """Refuse to start runs from a script that a worker is importing again.

    Without the guard the worker would wait for the lock that its own parent holds.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RunError(
            'put this call under `if __name__ == "__main__":`, because every run starts a process '
            "that imports your script again"
        )


def unwrap(answer: Returned | Failure) -> Returned:
    """The function's result; raises if the call failed."""
    if not isinstance(answer, Failure):
        return answer
    if answer.bug:
        sys.stderr.write(answer.bug)
    error = RunError(answer.message)
    error.exit_code = answer.exit_code
    raise error


def _environment() -> dict[str, str]:
    """The current environment, because the fork server has the one of its first call."""
    return {**os.environ, "LOWBIT_PARENT": str(os.getpid())}


def _context() -> Any:
    """Fork from a server without threads, which is safe on Linux; spawn elsewhere."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lowbit.runs.workers.preload"])
    return context


def _work(
    pipe: Connection,
    environment: Mapping[str, str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    pipe.send(guarded(function, *arguments, **named))
    pipe.close()


def guarded(
    function: Callable[Arguments, Returned], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Returned | Failure:
    """The function's result, or a Failure with a message for the user."""
    try:
        return function(*arguments, **named)
    except LowbitError as error:
        return Failure(str(error), error.exit_code)
    except OSError as error:
        if error.errno is None:
            return Failure(f"{type(error).__name__}: {error}", 1, traceback.format_exc())
        return Failure(describe_os_error(error), 1)
    except Exception as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            reason = str(error).strip().partition("\n")[0]
            return Failure(f"out of memory{': ' if reason else ''}{reason}", 1)
        return Failure(f"{type(error).__name__}: {error}", 1, traceback.format_exc())


def _killed(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (often: the system ran out of memory)" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint}; the same command resumes the run"
    return f"the process ended without a result (code {code})"


def orphaned() -> bool:
    """Whether the process that started this one has ended, so the result is not needed."""
    parent = os.environ.get("LOWBIT_PARENT")
    try:
        # A zombie has ended too.
        return parent is not None and psutil.Process(int(parent)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
