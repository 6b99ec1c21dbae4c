"""Reads finished runs from a packed results folder (`packed_lines` has the format).

Opening a file only indexes its lines by run name. A line is parsed and its digest is checked when
it is first read, so a command that needs no logs never parses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from lowbit.core.errors import RunError
from lowbit.core.files import to_json
from lowbit.runs import packed_lines
from lowbit.runs.packed_lines import LOGS, RUNS, SITES, Body, damage_message

_NAME = len('{"digest":"","') + 64


class LineFile:
    """A file of lines with digests, indexed by the name in each line ("run" or "name")."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def lines(self) -> dict[str, tuple[int, str]]:
        """(line number, text) by name; raises if a name occurs twice."""
        lines: dict[str, tuple[int, str]] = {}
        if not self.path.is_file():
            return lines
        text = self.path.read_text(encoding="utf-8")
        for number, line in enumerate(text.split("\n"), 1):
            if not line:
                continue
            name = self._name(line, number)
            if name in lines:
                raise RunError(f"{self.path}: '{name}' is in lines {lines[name][0]} and {number}")
            lines[name] = (number, line)
        if text and not text.endswith("\n"):
            raise RunError(damage_message(self.path, text.count("\n") + 1))
        return lines

    def _name(self, line: str, number: int) -> str:
        try:
            start = line.index(":", _NAME) + 1
            name, _ = json.JSONDecoder().raw_decode(line, start)
        except ValueError:
            name = None
        if not isinstance(name, str):
            raise RunError(damage_message(self.path, number))
        return name

    def body(self, name: str, digest: str | None = None) -> Body:
        """The parsed line of a name; its digest must be right, and equal `digest` if given."""
        number, line = self.lines[name]
        body, own = packed_lines.open_line(line, self.path, number)
        if digest is not None and own != digest:
            raise RunError(damage_message(self.path, number))
        return body


class PackedRuns:
    """The packed files of one results folder."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self._runs = LineFile(results / RUNS)
        self._logs = LineFile(results / LOGS)
        self._scores: dict[str, LineFile] = {}
        self._shared: dict[str, dict[str, Body]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._runs.lines

    @property
    def names(self) -> list[str]:
        return list(self._runs.lines)

    def line(self, name: str) -> Body:
        """A run's line: `record`, `record_digest`, and the digests of its other lines."""
        return self._runs.body(name)

    @cached_property
    def _sites(self) -> dict[str, Any]:
        file = LineFile(self.results / SITES)
        return {key: file.body(key)["value"] for key in file.lines}

    def record_body(self, name: str) -> Body:
        """The JSON object of record.json."""
        record = self.line(name)["record"]
        body = dict(packed_lines.json_body(record))
        if isinstance(body.get("sites"), str):
            if body["sites"] not in self._sites:
                raise RunError(f"{self.results / SITES} lacks the sites of {name}")
            body["sites"] = self._sites[body["sites"]]
        return body

    def record_text(self, name: str) -> str:
        """The exact text of record.json."""
        record = self.line(name)["record"]
        if "text" in record:
            return str(record["text"])
        return packed_lines.json_text({**record, "body": self.record_body(name)})

    def score_line(self, name: str) -> tuple[Body, Body | None] | None:
        """(the run's sums, the columns shared with other runs); None if the run has no scores."""
        line = self.line(name)
        if "scores" not in line:
            return None
        task = line["task"]
        file = self._scores.setdefault(
            task, LineFile(self.results / packed_lines.scores_file(task))
        )
        if name not in file.lines:
            raise RunError(f"{file.path} lacks the scores of {name}")
        body = file.body(name, line["scores"])
        return body, None if "text" in body else self._columns(task, body["examples"])

    def _columns(self, task: str, examples: str) -> Body:
        path = self.results / packed_lines.examples_file(task)
        if task not in self._shared:
            text = path.read_text(encoding="utf-8") if path.is_file() else "{}"
            try:
                self._shared[task] = json.loads(text)
            except ValueError:
                raise RunError(f"{path} is incomplete: restore it from version control") from None
        shared = self._shared[task].get(examples)
        if shared is None or packed_lines.text_digest(to_json(shared)) != examples:
            raise RunError(f"{path}: edited or incomplete at {examples}")
        return shared

    def log_line(self, name: str) -> Body | None:
        line = self.line(name)
        if "log" not in line:
            return None
        if name not in self._logs.lines:
            raise RunError(f"{self._logs.path} lacks the log of {name}")
        return self._logs.body(name, line["log"])

    def files(self, name: str) -> Iterator[tuple[str, str]]:
        """(file name, text) of every packed file of a run; the record comes last."""
        if scores := self.score_line(name):
            yield "scores.jsonl", packed_lines.scores_text(*scores)
        if log := self.log_line(name):
            yield "log.jsonl", packed_lines.log_text(log)
        yield "record.json", self.record_text(name)
