"""What candidates are given, and what is kept from them.

Training text gives `data.npy`, rows of window + 1 tokens, and `check.npy`, other articles of the
same kind, which a candidate's claim is about. The text that decides is split by article into

    screening      30 %    a look at every candidate
    confirmation   30 %    what keeps are decided on
    sealed         40 %    opened once, at the very end

(of the first two only so much is read as the settings say, so that trials are scored in seconds)
in the order of the articles' digests, so the split depends on nothing but the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from lowbit.core.errors import UserError
from lowbit.core.files import file_digest, write_atomic
from lowbit.core.spec import TaskSpec
from lowbit.models.loading import max_length, open_checkpoint, resolve, tokenizer_of
from lowbit.research.campaign.settings import CHECK, DATA, HIDDEN_CHECK, CampaignSettings, Places
from lowbit.tasks.base import Document
from lowbit.tasks.examples import end_of_text, language
from lowbit.tasks.prepare import find_task

SHARES = {"screening": 0.3, "confirmation": 0.3, "sealed": 0.4}
CHECK_ROWS = 8
"""Enough to compare a claim with: what differs by a hundredth differs on any text."""
LEAST = 2
"""Articles of a part: with one there is nothing to draw from."""


def prepare(settings: CampaignSettings, places: Places) -> dict[str, Any]:
    """Write both folders; returns what there is of each, for the ledger. Twice is once."""
    checkpoint = open_checkpoint(resolve(settings.model))
    if settings.window > max_length(checkpoint.config):
        raise UserError(
            f"a window of {settings.window} tokens: {settings.model} reads "
            f"{max_length(checkpoint.config)} at most"
        )
    spec = TaskSpec(settings.task)
    task = find_task(settings.task, spec)
    if task.kind != "language":
        raise UserError(f"'{settings.task}' is no text to continue: try wikitext2, or FILE.txt")
    parts = task.read(spec).parts
    tokenizer = tokenizer_of(checkpoint.folder)
    facts: dict[str, Any] = {}
    reads = {"screening": settings.look, "confirmation": settings.confirm}
    for name, part in ((DATA, "train"), (CHECK, "selection")):
        rows = token_rows(parts[part], tokenizer, settings.window)
        rows = rows[:CHECK_ROWS] if name == CHECK else rows
        _save(places.inputs / name, rows)
        facts[name] = {"rows": len(rows), "sha256": file_digest(places.inputs / name)}
    # The same rows where no candidate reaches them: its claim is about those.
    hidden = places.hidden / HIDDEN_CHECK
    write_atomic(hidden, json.dumps(rows.tolist()).encode())
    facts[HIDDEN_CHECK] = {"rows": len(rows), "sha256": file_digest(hidden)}
    for name, texts in split([document.text for document in parts["scored"]]).items():
        if name in reads:
            texts = first(texts, reads[name], _sizer(tokenizer))
        path = places.hidden / f"{name}.json"
        write_atomic(path, json.dumps(texts).encode())
        facts[path.name] = {"articles": len(texts), "sha256": file_digest(path)}
    return facts


def token_rows(documents: Sequence[Document], tokenizer: Any, window: int) -> np.ndarray:
    """(rows, window + 1): all documents on one string, the last token of a row begins the next."""
    flat = language(documents, tokenizer, window)
    end = end_of_text(tokenizer)
    tokens = np.append(flat["ids"], end).astype(np.int32)
    count = (len(tokens) - 1) // window
    if count < 1:
        raise UserError(f"fewer than {window} tokens of training text")
    return np.stack([tokens[i * window : i * window + window + 1] for i in range(count)])


def _sizer(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer(text, verbose=False)["input_ids"])


def first(texts: Sequence[str], most: int, size: Callable[[str], int]) -> list[str]:
    """As many whole articles as stay below so many tokens; LEAST of them in any case."""
    total = 0
    chosen: list[str] = []
    for text in texts:
        total += size(text)
        if total > most and len(chosen) >= LEAST:
            break
        chosen.append(text)
    return chosen


def _save(path: Path, rows: np.ndarray) -> None:
    import io

    file = io.BytesIO()
    np.save(file, rows)
    write_atomic(path, file.getvalue())


def split(texts: Sequence[str]) -> dict[str, list[str]]:
    """Parts by article, of about those shares of all characters."""
    ordered = sorted(texts, key=lambda text: sha256(text.encode()).digest())
    total, characters = sum(map(len, ordered)), 0
    parts: dict[str, list[str]] = {name: [] for name in SHARES}
    ends, reached = {}, 0.0
    for name, share in SHARES.items():
        reached += share
        ends[name] = reached * total
    for text in ordered:
        middle = characters + len(text) / 2
        name = next((name for name, end in ends.items() if middle < end), "sealed")
        parts[name].append(text)
        characters += len(text)
    short = [name for name, articles in parts.items() if len(articles) < LEAST]
    if short:
        raise UserError(f"{len(texts)} articles are too few to split: {', '.join(short)}")
    return parts
