"""A progress bar with tokens/s and the time left."""

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


class Watcher(Protocol):
    """Somebody who looks on while a model is trained."""

    def __call__(self, step: int, total: int, tokens: int, loss: float) -> None: ...


def nobody(step: int, total: int, tokens: int, loss: float) -> None:
    """Looks on and says nothing."""


@contextmanager
def bar(
    name: str,
    shown: bool,
    stop: Callable[[], bool] = lambda: False,
    console: Console | None = None,
) -> Iterator[Watcher]:
    """A watcher for the training loop. `stop` is asked every so often whether to give up."""
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

        def watch(step: int, total: int, tokens: int, loss: float) -> None:
            if stop():
                raise SystemExit(1)
            if not first:
                first.append((monotonic(), tokens))
            seconds, since = monotonic() - first[0][0], tokens - first[0][1]
            speed = f"{since / seconds:,.0f} tok/s" if seconds > 0 and since else ""
            text = f"loss {loss:.3f} {speed}"
            progress.update(task, completed=step, total=total, speed=text)

        yield watch


def phases(
    shown: bool,
    screen: TextIO | None = None,
    now: Callable[[], float] = monotonic,
    stop: Callable[[], bool] = lambda: False,
) -> Callable[[str, int, int], None]:
    """Tells how far each phase of a measurement is, on one line that is wiped when it ends.
    `stop` is asked every time whether to give up.

    A line that is written over needs no thread and hides no cursor, so nothing has to be undone
    where a measurement breaks off.
    """
    out = screen or sys.stderr
    began: dict[str, tuple[float, int]] = {}
    drawn = _sayable("█░", "#.", out)

    def update(what: str, done: int, total: int) -> None:
        if stop():
            raise SystemExit(1)
        if not shown:
            return
        since, first = began.setdefault(what, (now(), done))
        if done >= total:
            began.pop(what)
            out.write(f"\r{'':{LINE}}\r")
        else:
            spent, steps = now() - since, done - first
            left = f"{clock(spent / steps * (total - done))} left" if steps else ""
            full = round(PIECES * done / total)
            gauge = drawn[0] * full + drawn[1] * (PIECES - full)
            out.write(f"\r{f'{what:<11} {gauge} {done}/{total}  {left}':<{LINE}.{LINE}}")
        out.flush()

    return update


def _sayable(text: str, otherwise: str, out: TextIO) -> str:
    """The text, where the terminal's encoding has its characters."""
    try:
        text.encode(out.encoding or "utf-8")
    except UnicodeEncodeError:
        return otherwise
    return text


def clock(seconds: float) -> str:
    """So many hours and minutes, or minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _short(name: str, width: int) -> str:
    most = max(12, width - 52)
    return name if len(name) <= most else name[: most - 1] + "…"
