"""A log that can be cut back to a checkpoint, and clocks that continue when a run is resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowbit.core.files import to_json
from lowbit.train.checkpoint import Position

Clock = Callable[[], float]


class Log:
    """A run's log: a JSONL file, or no file if `path` is None."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def cut(self, size: int) -> None:
        """Remove everything after the first `size` bytes."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.truncate(size)

    def write(self, line: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(to_json(line) + "\n")

    @property
    def size(self) -> int:
        """Bytes written; 0 if there is no file."""
        return self.path.stat().st_size if self.path and self.path.exists() else 0


class Clocks:
    """Time spent on a run, over all its resumptions."""

    def __init__(
        self, before: Position, clock: Clock = time.perf_counter, cpu: Clock = time.process_time
    ) -> None:
        self.before, self.clock, self.cpu = before, clock, cpu
        self.began, self.cpu_began = clock(), cpu()
        self.saved = self.began
        self.train_s = before.train_s

    def stamp(self, position: Position) -> Position:
        return replace(
            position,
            train_s=self.train_s,
            wall_s=self.before.wall_s + self.clock() - self.began,
            cpu_s=self.before.cpu_s + self.cpu() - self.cpu_began,
        )

    def due(self, every: float) -> bool:
        """Whether `every` seconds have passed since this last returned True."""
        now = self.clock()
        if now - self.saved < every:
            return False
        self.saved = now
        return True
