"""A progress bar with tokens/s and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


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


def _short(name: str, width: int) -> str:
    most = max(12, width - 52)
    return name if len(name) <= most else name[: most - 1] + "…"
