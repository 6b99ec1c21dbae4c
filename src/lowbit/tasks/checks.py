"""Check a task's settings and text before anything is computed from them.

An error here costs seconds, but an error in the middle of a study costs the study. Built-in tasks,
plug-ins and users' files are checked by the same rules.
"""

from __future__ import annotations

from lowbit.core.errors import UserError
from lowbit.core.spec import TaskSpec
from lowbit.tasks.base import PARTS, Document, Example, Source, Task


def check_settings(spec: TaskSpec, task: Task, max_length: int) -> None:
    if task.kind == "language" and spec.window > max_length:
        raise UserError(
            f"task.window = {spec.window} is longer than the model's limit of {max_length} "
            f"tokens: set task.window to {max_length} or less"
        )
    if spec.chat and task.kind != "language":
        raise UserError(f"task.chat = true is for dialogues; '{task.name}' has sentences")


def check_source(source: Source, task: Task) -> None:
    """Require four non-empty parts, no text in two of them, and a valid label where needed."""
    home: dict[str, str] = {}
    for part in PARTS:
        documents = source.parts.get(part, ())
        if not documents:
            raise UserError(f"task '{task.name}': empty data: part '{part}' has no documents")
        for document in documents:
            _check_document(document, source, f"task '{task.name}', part '{part}'")
            if home.setdefault(document.text, part) != part:
                raise UserError(
                    f"task '{task.name}': {_quoted(document.text)} is in two parts, "
                    f"{home[document.text]} and {part}"
                )


def _check_document(document: Document, source: Source, where: str) -> None:
    if not document.text.strip():
        raise UserError(f"{where}: empty data: a document without text")
    if (document.label is None) != (not source.labels):
        problem = (
            "should have a label" if source.labels else "has a label, but there are no classes"
        )
        raise UserError(f"{where}: {_quoted(document.text)} {problem}")
    if document.label is not None and not 0 <= document.label < len(source.labels):
        raise UserError(
            f"{where}: {_quoted(document.text)} has the label {document.label}; labels are 0 to "
            f"{len(source.labels) - 1}"
        )


def check_lengths(
    parts: dict[str, tuple[Example, ...]], source: Source, task: Task, max_length: int
) -> None:
    """Require that every example fits the model. Sentences are not cut, to keep their meaning."""
    for part, rows in parts.items():
        for number, row in enumerate(rows, start=1):
            if not 1 <= len(row.ids) <= max_length:
                text = source.parts[part][row.document].text
                raise UserError(
                    f"task '{task.name}', part '{part}', example {number}: {_quoted(text)} has "
                    f"{len(row.ids)} tokens, and the model takes 1 to {max_length}"
                )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
