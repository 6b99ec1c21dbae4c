"""Turn a task's name into examples: find the task, read its text, check it, tokenise and cache it.

The cache key is a hash of everything that the arrays depend on: texts and labels, the tokeniser's
content, the kind and the window. Text is read and hashed every time, so a changed file is tokenised
again. Hashing takes much less time than tokenising.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from lowbit.core.array_store import Arrays, load_or_compute
from lowbit.core.errors import UserError
from lowbit.core.plugins import lookup, plugins
from lowbit.core.spec import TaskSpec
from lowbit.tasks import chat, examples, local_file
from lowbit.tasks.base import PARTS, Data, Example, Source, Task
from lowbit.tasks.checks import check_lengths, check_settings, check_source

VERSION = 1


def find_task(name: str, spec: TaskSpec | None = None) -> Task:
    """A task by name, or the task of a .txt or .jsonl file. `spec` may rename the file's fields."""
    if local_file.is_file_name(name):
        return local_file.task_of(spec or TaskSpec(name))
    named = plugins("lowbit.tasks", "TASK")
    if name not in named and Path(name).exists():
        raise UserError(f"task '{name}': the name of a task's file should end in .txt or .jsonl")
    task: Task = lookup("task", name, named)
    return task


def prepare(
    spec: TaskSpec, tokenizer: PreTrainedTokenizerBase, max_length: int, cache: Path | None
) -> Data:
    """The task's four parts as examples for this tokeniser. Without `cache` nothing is cached."""
    task = find_task(spec.name, spec)
    check_settings(spec, task, max_length)
    source = task.read(spec)
    check_source(source, task)
    key = _key(source, task, tokenizer, spec)
    make = partial(encode, source, task, tokenizer, spec)
    path = cache and cache / "tasks" / f"{_short(task.name)}-{key[:16]}.safetensors"
    arrays = load_or_compute(path, key, make) if path else make()
    parts = {part: examples.examples(_of(part, arrays), task.kind) for part in PARTS}
    parts |= (rest := _rest(parts, spec))
    limits = {"train": spec.limit, "scored": spec.scored_limit}
    limited_parts = {part: parts[part][: limits.get(part, 0) or None] for part in PARTS}
    check_lengths(limited_parts, source, task, max_length)
    if rest and (first := spec.scored_rest or spec.scored_limit):
        limited_parts["spare"] = _spare(rest["rest"], first)
    notes = (*source.notes, *_notes(spec, task, parts, limited_parts))
    content = f"{key}|{sorted(limits.items())}" + (f"|{spec.rest}" if spec.rest else "")
    content += f"|{spec.scored_rest}" if spec.scored_rest else ""
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
    return Data(task.kind, limited_parts, source.labels, notes, fingerprint)


def _rest(parts: dict[str, tuple[Example, ...]], spec: TaskSpec) -> dict[str, tuple[Example, ...]]:
    """The parts in which training examples from `spec.rest` on are scored.

    Documents that began before are left out, and the others get new numbers after the scored ones.
    """
    train, scored, start = parts["train"], parts["scored"], spec.rest
    if not start or start >= len(train):
        return {}
    last_trained = train[start - 1].document
    examples_after = [example for example in train[start:] if example.document != last_trained]
    offset = 1 + max((example.document for example in scored), default=0)
    numbered = tuple(replace(e, document=e.document + offset) for e in examples_after)
    first = numbered[: spec.scored_rest or None]
    return {"train": train[:start], "scored": first + scored, "rest": numbered}


def _spare(rest: tuple[Example, ...], limit: int) -> tuple[Example, ...]:
    """The examples of the rest that are not scored, without those of partly scored documents."""
    last = rest[min(limit, len(rest)) - 1].document
    return tuple(example for example in rest[limit:] if example.document != last)


def encode(
    source: Source, task: Task, tokenizer: PreTrainedTokenizerBase, spec: TaskSpec
) -> Arrays:
    """The flat arrays of every part, named `part.array`. Each part is encoded independently."""
    named = {}
    for part in PARTS:
        documents = source.parts[part]
        flat = (
            examples.language(documents, tokenizer, spec.window, spec.chat)
            if task.kind == "language"
            else examples.classification(documents, tokenizer)
        )
        named.update({f"{part}.{name}": array for name, array in flat.items()})
    return named


def _of(part: str, arrays: Arrays) -> Arrays:
    prefix = f"{part}."
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def _key(source: Source, task: Task, tokenizer: PreTrainedTokenizerBase, spec: TaskSpec) -> str:
    digest = hashlib.sha256(f"{VERSION}|{task.kind}|".encode())
    if task.kind == "language":
        digest.update(f"{spec.window}|{examples.end_of_text(tokenizer)}|".encode())
        if spec.chat:
            digest.update(f"chat|{chat.template_of(tokenizer)}|".encode())
    digest.update(_content(tokenizer))
    digest.update(json.dumps(source.labels).encode())
    for part in PARTS:
        for document in source.parts[part]:
            text = document.text.encode("utf-8", "surrogatepass")
            digest.update(f"|{part}|{document.label}|{len(text)}|".encode() + text)
    return digest.hexdigest()


def _content(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """The tokeniser as JSON, without its current settings for padding and truncation."""
    if not tokenizer.is_fast:
        raise UserError("the tokeniser has no tokenizer.json, which is needed for token positions")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.update(truncation=None, padding=None)
    return json.dumps(content, sort_keys=True).encode()


def _notes(
    spec: TaskSpec,
    task: Task,
    parts: dict[str, tuple[Example, ...]],
    limited_parts: dict[str, tuple[Example, ...]],
) -> Iterator[str]:
    if spec.rest:
        many = f", {spec.scored_rest:,} of them" if spec.scored_rest else ""
        yield f"training examples from {spec.rest:,} on are scored{many}, before the task's own"
    if task.kind == "language":
        yield f"windows of {spec.window} predicted tokens that never join documents"
    if spec.chat:
        yield "in the model's chat template: turns and the token that ends each are scored"
    for part in PARTS:
        count = len(limited_parts[part])
        if count < len(parts[part]):
            yield f"{part}: only the first {count} of {len(parts[part])} examples"


def _short(name: str) -> str:
    last = Path(name).name
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in last)
