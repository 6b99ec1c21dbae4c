"""Progress on the terminal: a bar for training, and one line for the phases of a measurement."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

LINE, PIECES = 79, 30
LOG_EVERY = 30.0
"""Seconds between two lines where the output is no terminal."""


class StepCallback(Protocol):
    """Called by the training loop after every optimiser step."""

    def __call__(self, step: int, total: int, tokens: int, loss: float) -> None: ...


def ignore_step(step: int, total: int, tokens: int, loss: float) -> None:
    """The callback that does nothing."""


@contextmanager
def bar(
    name: str,
    shown: bool,
    stop: Callable[[], bool] = lambda: False,
    console: Console | None = None,
) -> Iterator[StepCallback]:
    """A callback for the training loop that shows a progress bar if `shown`.

    The callback ends the process when `stop` returns True.
    """
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
    )
    progress = Progress(*columns, console=console, disable=not shown, transient=True, expand=True)
    with progress:
        task = progress.add_task(_short(name, console.width), total=None, speed="")
        first: list[tuple[float, int]] = []

        def on_step(step: int, total: int, tokens: int, loss: float) -> None:
            if stop():
                raise SystemExit(1)
            if not first:
                first.append((monotonic(), tokens))
            seconds, since = monotonic() - first[0][0], tokens - first[0][1]
            speed = f"{since / seconds:,.0f} tok/s" if seconds > 0 and since else ""
            text = f"loss {loss:.3f} {speed}"
            progress.update(task, completed=step, total=total, speed=text)

        yield on_step


def phases(
    terminal: bool,
    screen: TextIO | None = None,
    now: Callable[[], float] = monotonic,
    stop: Callable[[], bool] = lambda: False,
) -> Callable[[str, int, int], None]:
    """A callback that shows the progress of each phase.

    On a terminal it is one line, erased when the phase ends. A line that is overwritten needs no
    thread and hides no cursor, so an interrupted measurement leaves nothing to clean up. Elsewhere,
    such as in a log file, it is a line every half minute. The callback ends the process when `stop`
    returns True.
    """
    out = screen or sys.stderr
    starts: dict[str, tuple[float, int]] = {}
    pieces = _printable("█░", "#.", out)
    last_line = now()

    def update(what: str, done: int, total: int) -> None:
        nonlocal last_line
        if stop():
            raise SystemExit(1)
        time = now()
        since, first = starts.setdefault(what, (time, done))
        spent, steps = time - since, done - first
        left = f"{clock(spent / steps * (total - done))} left" if steps else ""
        if done >= total:
            starts.pop(what)
        if terminal:
            line = "" if done >= total else _gauge(what, done, total, pieces) + left
            out.write(f"\r{line:<{LINE}.{LINE}}" + ("\r" if done >= total else ""))
        elif time - last_line >= LOG_EVERY and done < total:
            out.write(f"{what} {done}/{total}{', ' if left else ''}{left}\n")
            last_line = time
        out.flush()

    return update


def _gauge(what: str, done: int, total: int, pieces: str) -> str:
    full = round(PIECES * done / total)
    return f"{what:<11} {pieces[0] * full + pieces[1] * (PIECES - full)} {done}/{total}  "


def _printable(text: str, otherwise: str, out: TextIO) -> str:
    """The text if the terminal's encoding has its characters, else `otherwise`."""
    try:
        text.encode(out.encoding or "utf-8")
    except UnicodeEncodeError:
        return otherwise
    return text


def clock(seconds: float) -> str:
    """A duration in hours and minutes, in minutes and seconds, or in seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _short(name: str, width: int) -> str:
    longest = max(12, width - 52)
    return name if len(name) <= longest else name[: longest - 1] + "…"
