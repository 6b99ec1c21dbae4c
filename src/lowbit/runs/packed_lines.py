"""The lines of a packed results folder: how a run's files become lines, and come back bit for bit.

Run folders repeat themselves: all seeds of a plan have the same sites, all runs of a task are
scored on the same examples, and every log line names its numbers again. Packed, a run is one line
in a few files, and what repeats is stored once under its hash:

    runs.jsonl           the record, with a hash in the place of its sites
    sites.jsonl          lists of sites, by hash
    scores-TASK.jsonl    the sum of every example
    examples-TASK.json   the other columns of the scores, by hash
    logs.jsonl           log lines as rows under shared keys
    forecasts.jsonl      a study's predictions; solo.jsonl: costs measured alone

A line begins with the digest of the rest of it, and a run's line holds the digests of its score and
log lines, so an edit is detected wherever it is. A file that would not come back bit for bit from
its columns (a hand-written one) is kept as text.
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
    """A task's name where a file may have it: of a path, its last part."""
    last = re.split(r"[/\\]", task.rstrip("/\\"))[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last)[:80]


# -- a line and its digest -------------------------------------------------------------------------


def sealed(body: Body) -> tuple[str, str]:
    """(line, digest) of a body; the digest stands in front."""
    text = to_json(body)
    digest = text_digest(text)
    return f'{{"digest":"{digest}",{text[1:]}', digest


def opened(line: str, path: Path, number: int) -> tuple[Body, str]:
    """(body, digest) of a line; an edited or torn one is refused by its place."""
    head = _HEAD.match(line)
    text = "{" + line[head.end() :] if head else ""
    if head is None or text_digest(text) != head[1]:
        raise RunError(damaged(path, number))
    return json.loads(text), head[1]


def damaged(path: Path, number: int) -> str:
    return (
        f"{path}, line {number}: edited or torn. Restore the file from your version control or a "
        "backup; or delete the line, and the run is done again"
    )


def read_sealed(path: Path) -> Iterator[tuple[Body, str]]:
    """Every (body, digest) of a file; none where there is no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            yield opened(line.rstrip("\n"), path, number)


# -- records and other JSON files ------------------------------------------------------------------


def _indented(body: Any) -> str:
    return json.dumps(body, allow_nan=False, indent=1) + "\n"


def _compact(body: Any) -> str:
    return to_json(body) + "\n"


STYLES: dict[str, Callable[[Any], str]] = {"indented": _indented, "compact": _compact}


def packed_json(text: str) -> Body:
    """A JSON file as an object of a line, with the style that gives its bytes back."""
    body = json.loads(text)
    for style, write in STYLES.items():
        if write(body) == text:
            return {"style": style, "body": body}
    return {"text": text}


def json_text(packed: Mapping[str, Any]) -> str:
    """The file's text."""
    return str(packed["text"]) if "text" in packed else STYLES[packed["style"]](packed["body"])


def json_body(packed: Mapping[str, Any]) -> Any:
    return json.loads(packed["text"]) if "text" in packed else packed["body"]


# -- scores ----------------------------------------------------------------------------------------


def packed_scores(text: str) -> tuple[Body, Body | None]:
    """(what a run's line holds, the columns that it shares); text alone where that loses bytes."""
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
"""The keys of a log line; a nested object's as [key, [keys]]."""


def packed_log(text: str) -> Body:
    """Rows of values under the layouts of keys that the log uses."""
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
