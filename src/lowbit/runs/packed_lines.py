"""The file format of a packed results folder: a run's files as lines, restored bit for bit.

Run folders repeat data: all seeds of a plan have the same sites, all runs of a task are scored on
the same examples, and every log line repeats its keys. In packed form, a run is one line in each of
a few files, and repeated data is stored once under its hash:

    runs.jsonl           the record, with a hash in the place of its sites
    sites.jsonl          lists of sites, by hash
    scores-TASK.jsonl    the sum of every example
    examples-TASK.json   the other columns of the scores, by hash
    logs.jsonl           log lines as rows under shared keys
    forecasts.jsonl      a study's predictions
    solo.jsonl           costs of configurations that had the machine to themselves

Every line begins with a digest of the rest of the line, and a run's line also holds the digests of
its score and log lines, so any edit is detected. A file that its columns would not restore exactly
(a hand-written one) is stored as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from lowbit.core.errors import RunError
from lowbit.core.files import to_json

RUNS, SITES, LOGS = "runs.jsonl", "sites.jsonl", "logs.jsonl"
FORECASTS, SOLO = "forecasts.jsonl", "solo.jsonl"
_HEAD = re.compile(r'\{"digest":"([0-9a-f]{64})",')
Body = dict[str, Any]


def text_digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def scores_file(task: str) -> str:
    return f"scores-{_file_name(task)}.jsonl"


def examples_file(task: str) -> str:
    return f"examples-{_file_name(task)}.json"


def _file_name(task: str) -> str:
    """A task's name as part of a file name; a path gives its last part."""
    last = re.split(r"[/\\]", task.rstrip("/\\"))[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last)[:80]


# -- a line and its digest -------------------------------------------------------------------------


def seal_line(body: Body) -> tuple[str, str]:
    """(line, digest) of a body; the line begins with the digest."""
    text = to_json(body)
    digest = text_digest(text)
    return f'{{"digest":"{digest}",{text[1:]}', digest


def open_line(line: str, path: Path, number: int) -> tuple[Body, str]:
    """(body, digest) of a line; raises with file and line number if the digest does not match."""
    head = _HEAD.match(line)
    text = "{" + line[head.end() :] if head else ""
    if head is None or text_digest(text) != head[1]:
        raise RunError(damage_message(path, number))
    return json.loads(text), head[1]


def damage_message(path: Path, number: int) -> str:
    return (
        f"{path}, line {number}: edited or incomplete. Restore the file from version control or a "
        "backup, or delete the line to run this run again"
    )


def read_lines(path: Path) -> Iterator[tuple[Body, str]]:
    """Yield (body, digest) of every line; nothing if the file does not exist."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            yield open_line(line.rstrip("\n"), path, number)


# -- records and other JSON files ------------------------------------------------------------------


def _indented(body: Any) -> str:
    return json.dumps(body, allow_nan=False, indent=1) + "\n"


def _compact(body: Any) -> str:
    return to_json(body) + "\n"


STYLES: dict[str, Callable[[Any], str]] = {"indented": _indented, "compact": _compact}


def packed_json(text: str) -> Body:
    """A JSON file as an object, with the style that restores its exact bytes."""
    body = json.loads(text)
    for style, write in STYLES.items():
        if write(body) == text:
            return {"style": style, "body": body}
    return {"text": text}


def json_text(packed: Mapping[str, Any]) -> str:
    """The exact text of a packed JSON file."""
    return str(packed["text"]) if "text" in packed else STYLES[packed["style"]](packed["body"])


def json_body(packed: Mapping[str, Any]) -> Any:
    return json.loads(packed["text"]) if "text" in packed else packed["body"]


# -- scores ----------------------------------------------------------------------------------------


def packed_scores(text: str) -> tuple[Body, Body | None]:
    """(the run's own line, the columns it shares); only its text if columns would lose bytes."""
    rows = [json.loads(line) for line in text.splitlines()]
    keys = list(rows[0]) if rows else []
    if "sum" in keys and all(list(row) == keys for row in rows):
        columns = {key: [row[key] for row in rows] for key in keys if key != "sum"}
        shared: Body = {"keys": keys, "columns": columns}
        line: Body = {"examples": text_digest(to_json(shared)), "sum": [row["sum"] for row in rows]}
        if scores_text(line, shared) == text:
            return line, shared
    return {"text": text}, None


def score_rows(line: Mapping[str, Any], shared: Mapping[str, Any] | None) -> list[Body]:
    """The rows of scores.jsonl."""
    if "text" in line:
        return [json.loads(row) for row in line["text"].splitlines()]
    assert shared is not None
    columns = {**shared["columns"], "sum": line["sum"]}
    ordered = [columns[key] for key in shared["keys"]]
    return [dict(zip(shared["keys"], values, strict=True)) for values in zip(*ordered, strict=True)]


def scores_text(line: Mapping[str, Any], shared: Mapping[str, Any] | None) -> str:
    if "text" in line:
        return str(line["text"])
    return "".join(_compact(row) for row in score_rows(line, shared))


# -- logs ------------------------------------------------------------------------------------------

Layout = list[Any]
"""The keys of a log line; a nested object is [key, [keys]]."""


def packed_log(text: str) -> Body:
    """A log as rows of values, with the list of key layouts that they use."""
    rows = [json.loads(line) for line in text.splitlines()]
    layouts: list[Layout] = []
    packed = []
    for row in rows:
        layout = [[k, list(v)] if isinstance(v, dict) else k for k, v in row.items()]
        if layout not in layouts:
            layouts.append(layout)
        packed.append([layouts.index(layout), *_values(row)])
    line: Body = {"keys": layouts, "rows": packed}
    return line if log_text(line) == text else {"text": text}


def _values(row: Body) -> list[Any]:
    flat: list[Any] = []
    for value in row.values():
        flat += value.values() if isinstance(value, dict) else [value]
    return flat


def log_rows(line: Mapping[str, Any]) -> list[Body]:
    """The rows of log.jsonl."""
    if "text" in line:
        return [json.loads(row) for row in line["text"].splitlines()]
    return [_row(line["keys"][index], values) for index, *values in line["rows"]]


def _row(layout: Layout, values: Sequence[Any]) -> Body:
    rest = iter(values)
    return {
        (key if isinstance(key, str) else key[0]): (
            next(rest) if isinstance(key, str) else {name: next(rest) for name in key[1]}
        )
        for key in layout
    }


def log_text(line: Mapping[str, Any]) -> str:
    return str(line["text"]) if "text" in line else "".join(map(_compact, log_rows(line)))
