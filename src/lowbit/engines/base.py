"""What an engine is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lowbit.core.execution import Execution
from lowbit.core.spec import RunSpec
from lowbit.record import Record


@dataclass(frozen=True)
class Cell:
    """One run and its folder."""

    run: RunSpec
    folder: Path


@dataclass(frozen=True)
class Ending:
    """How a cell ended: with a record, or with what went wrong and its exit code."""

    cell: Cell
    record: Record | None
    message: str = ""
    exit_code: int = 0
    kept: bool = False
    """The record was there already."""


@dataclass(frozen=True)
class Order:
    """How to carry cells out."""

    execution: Execution
    jobs: int
    rerun: bool = False
    memory: int | None = None
    """Bytes that each run may take, where several run at once."""
    show: Literal["bar", "nothing"] = "nothing"


Told = Callable[[Ending], None]


@dataclass(frozen=True)
class Engine:
    """`carry_out(cells, order, told)`: tells of every ending as it happens, and returns them all.

    A killed worker loses no finished run, and the same call goes on where it stopped.
    """

    name: str
    carry_out: Callable[[Sequence[Cell], Order, Told], list[Ending]]
