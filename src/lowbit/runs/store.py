"""Reads the finished runs of a results folder, packed or unpacked.

Runs are written as folders and committed as packed lines. All code that reads records uses this
module, so both forms are read in the same way. `ResultsFolder.find` returns a `FinishedRun`, which
reads scores and log on first use. If a run exists in both forms and they differ, reading it raises
an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lowbit.core.errors import RunError
from lowbit.core.files import file_digest, read_jsonl
from lowbit.core.stats import Floats
from lowbit.runs import isolated_cost, packed_lines
from lowbit.runs.isolated_cost import IsolatedCost
from lowbit.runs.packed_lines import FORECASTS, RUNS, SOLO
from lowbit.runs.packed_runs import LineFile, PackedRuns
from lowbit.runs.record import LOG, RECORD, SCORES, Cost, Record, parse_record, read_record

FORECAST_FOLDER = "forecasts"


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a run as columns, each (examples,), sorted by example."""

    example: Floats
    document: Floats
    sum: Floats
    count: Floats


def _scores(rows: Iterable[dict[str, Any]]) -> Scores:
    ordered = sorted(rows, key=lambda row: row["example"])
    columns = ("example", "document", "sum", "count")
    return Scores(*(np.array([row[name] for row in ordered], float) for name in columns))


def _shared_columns(columns: Mapping[str, Any]) -> tuple[np.ndarray, Floats, Floats, Floats]:
    """(order by example, then the columns example, document and count in this order)."""
    order = np.argsort(np.array(columns["example"]), kind="stable")
    example, document, count = (
        np.array(columns[name], float)[order] for name in ("example", "document", "count")
    )
    return order, example, document, count


class FinishedRun:
    """A run with an intact record. Scores, log and isolated cost are read on first use."""

    def __init__(self, name: str, record: Record, results: ResultsFolder) -> None:
        self.name, self.record, self._results = name, record, results

    def __repr__(self) -> str:
        return f"FinishedRun({self.name})"

    @property
    def seed(self) -> int:
        return self.record.seed

    @property
    def plan(self) -> str:
        return self.record.plan

    @property
    def folder(self) -> Path:
        """The run's folder; it may not exist if the run is packed."""
        return self._results.path / self.name

    @cached_property
    def scores(self) -> Scores:
        """The scores of every example; raises if the run diverged."""
        return self._results.scores(self.name)

    @cached_property
    def log(self) -> tuple[dict[str, Any], ...]:
        """The lines of its log; empty if it has no log."""
        return tuple(self._results.log_rows(self.name))

    @cached_property
    def isolated_cost(self) -> IsolatedCost | None:
        """The isolated cost of its configuration, if it was measured."""
        text = self._results.isolated_cost_text(
            isolated_cost.configuration_name(self.name, self.seed)
        )
        return None if text is None else isolated_cost.parse_isolated_cost(text, self.record)

    @property
    def cost(self) -> Cost:
        """Its cost, with memory and time from the isolated cost if there is one."""
        return isolated_cost.reported_cost(self.record, self.isolated_cost)


class ResultsFolder:
    """One results folder in either form. Everything is read on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: dict[str, FinishedRun | None] = {}
        self._columns: dict[str, tuple[np.ndarray, Floats, Floats, Floats]] = {}

    @cached_property
    def packed(self) -> PackedRuns:
        return PackedRuns(self.path)

    def names(self) -> list[str]:
        """The names of all runs with a record, in a folder or packed."""
        folders = [path.parent.name for path in sorted(self.path.glob(f"*/{RECORD}"))]
        return list(dict.fromkeys([*folders, *self.packed.names]))

    def find(self, name: str) -> FinishedRun | None:
        """The finished run of a name; None if there is none or if its files are damaged."""
        if name not in self._runs:
            record = self._record(name)
            self._runs[name] = None if record is None else FinishedRun(name, record, self)
        return self._runs[name]

    def forget(self, name: str) -> None:
        """Drop a cached run, because it was run again."""
        self._runs.pop(name, None)

    def _record(self, name: str) -> Record | None:
        path = self.path / name / RECORD
        if name not in self.packed:
            return read_record(path.parent)
        if path.is_file() and file_digest(path) != self.packed.line(name)["record_digest"]:
            raise RunError(
                f"{path} and {self.path / RUNS} hold different records of one run. Keep the "
                f"folder's: lowbit pack --replace. Keep the packed one: remove {path.parent}"
            )
        return parse_record(self.packed.record_body(name))

    def scores(self, name: str) -> Scores:
        """A run's scores. Packed runs of one task share their common columns in memory."""
        if name not in self.packed:
            return _scores(read_jsonl(self.path / name / SCORES))
        packed = self.packed.score_line(name)
        if packed is None:
            raise RunError(f"{name} has no scores")
        line, shared = packed
        if shared is None:
            return _scores(packed_lines.score_rows(line, shared))
        if line["examples"] not in self._columns:
            self._columns[line["examples"]] = _shared_columns(shared["columns"])
        order, example, document, count = self._columns[line["examples"]]
        return Scores(example, document, np.array(line["sum"], float)[order], count)

    def log_rows(self, name: str) -> Sequence[dict[str, Any]]:
        if name in self.packed:
            line = self.packed.log_line(name)
            return packed_lines.log_rows(line) if line else []
        path = self.path / name / LOG
        return list(read_jsonl(path)) if path.is_file() else []

    @cached_property
    def _packed_costs(self) -> LineFile:
        return LineFile(self.path / SOLO)

    def isolated_cost_text(self, configuration: str) -> str | None:
        path = self.path / isolated_cost.FOLDER / f"{configuration}.json"
        return _text(path, self._packed_costs, configuration)

    @cached_property
    def _packed_forecasts(self) -> LineFile:
        return LineFile(self.path / FORECASTS)

    def forecast(self, name: str) -> dict[str, Any] | None:
        """The JSON of a forecast's file, by its name without `.json`."""
        text = _text(self.path / FORECAST_FOLDER / f"{name}.json", self._packed_forecasts, name)
        return None if text is None else json.loads(text)


def find_run(folder: Path) -> FinishedRun | None:
    """The finished run of one folder, or of its packed line in the parent folder."""
    return ResultsFolder(folder.parent).find(folder.name)


def _text(path: Path, packed: LineFile, name: str) -> str | None:
    """The text of a small JSON file, or of its packed line."""
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return packed_lines.json_text(packed.body(name)["file"]) if name in packed.lines else None
