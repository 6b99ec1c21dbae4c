"""A user's own file as a task.

`FILE.txt` holds documents separated by `<|endoftext|>`; without a separator it is one document.
Four or more documents are assigned to parts by their hash. Fewer are cut at paragraphs, and the
parts follow one another in the text. `FILE.jsonl` holds one object per line, with the field `text`
(language), or `sentence` and `label` (classification). A task's settings can name other fields.
Labels are strings or integers and are numbered in sorted order. Errors name the file and the line.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from lowbit.core.errors import UserError, nearest
from lowbit.core.spec import TaskSpec
from lowbit.tasks.base import PARTS, Document, Kind, Source, Task
from lowbit.tasks.sources import documents_of, text_of, unreadable
from lowbit.tasks.split import HELD_OUT, SCORED, hold_out, split_in_order

SUFFIXES = (".txt", ".jsonl")
Rows = list[tuple[str, dict[str, Any]]]


def is_file_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def task_of(spec: TaskSpec) -> Task:
    """The task in the file that `spec.name` names."""
    path = Path(spec.name).expanduser()
    if not path.exists():
        raise unreadable(path, "there is no such file")
    if path.suffix.lower() == ".txt":
        return Task(spec.name, "language", partial(_read_text, path), f"the text of {path.name}")
    kind = _kind(_rows(path), path, spec)
    return Task(spec.name, kind, partial(_read_jsonl, path, kind), f"the lines of {path.name}")


def _read_text(path: Path, spec: TaskSpec) -> Source:
    return _language(documents_of(text_of(path)), path)


def _read_jsonl(path: Path, kind: Kind, spec: TaskSpec) -> Source:
    rows = _rows(path)
    if kind == "classification":
        return _classification(rows, path, spec)
    return _language(tuple(Document(_text(row, spec.text, at)) for at, row in rows), path)


def _language(documents: tuple[Document, ...], path: Path) -> Source:
    if not documents:
        raise UserError(f"{path}: empty data: the file has no text")
    texts = {document.text: None for document in documents}
    if len(texts) < len(PARTS):
        note = f"{path.name}: consecutive stretches of the text: 80 % train, the last 10 % scored"
        return Source(split_in_order(list(texts), str(path)), notes=(note,))
    note = f"{path.name}: documents dealt out by their hash, about 10 % scored"
    return Source(hold_out(documents, (*HELD_OUT, SCORED), str(path)), notes=(note,))


def _classification(rows: Rows, path: Path, spec: TaskSpec) -> Source:
    labels = [_label(row, spec.label, at) for at, row in rows]
    if len({type(label) for label in labels}) > 1:
        raise UserError(f"{path}: field '{spec.label}' holds both strings and integers")
    names = sorted(set(labels))
    if len(names) < 2:
        raise UserError(
            f"{path}: field '{spec.label}' is always {names[0]!r}: there should be two classes"
        )
    sentences = [_text(row, spec.sentence, at) for at, row in rows]
    documents = [
        Document(sentence, names.index(label))
        for sentence, label in zip(sentences, labels, strict=True)
    ]
    note = f"{path.name}: lines dealt out by their hash, about 10 % scored"
    parts = hold_out(documents, (*HELD_OUT, SCORED), str(path))
    return Source(parts, tuple(str(name) for name in names), (note,))


def _rows(path: Path) -> Rows:
    """The objects of the file, each with its place as text: `FILE, line N`."""
    numbered = enumerate(text_of(path).split("\n"), start=1)
    rows = [(f"{path}, line {n}", line) for n, line in numbered if line.strip()]
    if not rows:
        raise UserError(f"{path}: empty data: the file has no lines")
    return [(at, _object(line, at)) for at, line in rows]


def _object(line: str, at: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{at}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f'{at}: should be a JSON object such as {{"text": ...}}')
    return value


def _kind(rows: Rows, path: Path, spec: TaskSpec) -> Kind:
    """The kind of task, by the fields of the first line."""
    at, first = rows[0]
    if spec.sentence in first and spec.label in first:
        return "classification"
    if spec.text in first:
        return "language"
    raise UserError(
        f"{at}: needs the field '{spec.text}', or '{spec.sentence}' and '{spec.label}', but has "
        f"{', '.join(map(repr, first)) or 'none'}. For other names use --set task.text=..."
    )


def _field(row: dict[str, Any], field: str, at: str) -> Any:
    if field not in row:
        raise UserError(f"{at}: no field '{field}'.{nearest(field, row)}")
    return row[field]


def _text(row: dict[str, Any], field: str, at: str) -> str:
    value = _field(row, field, at)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{at}: field '{field}' should be a text, not {str(value)[:40]!r}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{at}: field '{field}' holds half a surrogate pair: not valid Unicode")
    return value


def _label(row: dict[str, Any], field: str, at: str) -> Any:
    value = _field(row, field, at)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{at}: field '{field}' should be a string or an integer, not {value!r}")
    return value
