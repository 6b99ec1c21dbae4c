"""Splits a campaign's text into training and check tokens for candidates, and hidden text.

Candidates get `data.npy`, rows of window + 1 training tokens, and `check.npy`, rows of other
articles, on which they report their perplexity. The evaluation text is hidden from them. It is
split by article:

    screening      30 %    scores every candidate
    confirmation   30 %    decides whether a candidate is kept
    sealed         40 %    used once, in the final evaluation

The settings limit the first two parts, so that scoring a trial takes seconds. The articles are
ordered by digest, so the split depends only on the text. The price of three parts: each one is
smaller than the whole text, which makes confidence intervals wider.
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
from lowbit.models.checkpoint import open_checkpoint, tokenizer_of
from lowbit.models.find_model import resolve
from lowbit.models.skeleton import max_length
from lowbit.research.campaign.settings import CHECK, DATA, HIDDEN_CHECK, CampaignSettings, Places
from lowbit.tasks.base import Document
from lowbit.tasks.examples import end_of_text, language
from lowbit.tasks.prepare import find_task

SHARES = {"screening": 0.3, "confirmation": 0.3, "sealed": 0.4}
CHECK_ROWS = 8
"""Rows of the check text. A few suffice to detect a claim that is wrong by 1 %."""
LEAST = 2
"""Least number of articles of a part; a bootstrap over one article is not possible."""


def prepare(settings: CampaignSettings, places: Places) -> dict[str, Any]:
    """Write the inputs of candidates and the hidden text; a second call writes the same.

    Returns:
        File name -> number of rows or articles and SHA-256, for the ledger.
    """
    checkpoint = open_checkpoint(resolve(settings.model))
    if settings.window > max_length(checkpoint.config):
        raise UserError(
            f"a window of {settings.window} tokens is too long: {settings.model} has at most "
            f"{max_length(checkpoint.config)} positions"
        )
    spec = TaskSpec(settings.task)
    task = find_task(settings.task, spec)
    if task.kind != "language":
        raise UserError(
            f"'{settings.task}' is not a language-modelling task: use wikitext2 or FILE.txt"
        )
    parts = task.read(spec).parts
    tokenizer = tokenizer_of(checkpoint.folder)
    facts: dict[str, Any] = {}
    limits = {"screening": settings.look, "confirmation": settings.confirm}
    for name, part in ((DATA, "train"), (CHECK, "selection")):
        rows = token_rows(parts[part], tokenizer, settings.window)
        rows = rows[:CHECK_ROWS] if name == CHECK else rows
        _save(places.inputs / name, rows)
        facts[name] = {"rows": len(rows), "sha256": file_digest(places.inputs / name)}
    # The evaluator needs the check rows too, from a file that no candidate can change.
    hidden = places.hidden / HIDDEN_CHECK
    write_atomic(hidden, json.dumps(rows.tolist()).encode())
    facts[HIDDEN_CHECK] = {"rows": len(rows), "sha256": file_digest(hidden)}
    for name, texts in split([document.text for document in parts["scored"]]).items():
        if name in limits:
            texts = first(texts, limits[name], _token_counter(tokenizer))
        path = places.hidden / f"{name}.json"
        write_atomic(path, json.dumps(texts).encode())
        facts[path.name] = {"articles": len(texts), "sha256": file_digest(path)}
    return facts


def token_rows(documents: Sequence[Document], tokenizer: Any, window: int) -> np.ndarray:
    """Tokens of all documents in one sequence, cut into an array of shape (rows, window + 1).

    The last token of a row is also the first token of the next row.
    """
    flat = language(documents, tokenizer, window)
    end = end_of_text(tokenizer)
    tokens = np.append(flat["ids"], end).astype(np.int32)
    count = (len(tokens) - 1) // window
    if count < 1:
        raise UserError(f"the training text is too short: it has fewer than {window} tokens")
    return np.stack([tokens[i * window : i * window + window + 1] for i in range(count)])


def _token_counter(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer(text, verbose=False)["input_ids"])


def first(texts: Sequence[str], most: int, size: Callable[[str], int]) -> list[str]:
    """The first whole articles of at most `most` tokens together, but at least LEAST articles."""
    total = 0
    articles: list[str] = []
    for text in texts:
        total += size(text)
        if total > most and len(articles) >= LEAST:
            break
        articles.append(text)
    return articles


def _save(path: Path, rows: np.ndarray) -> None:
    import io

    file = io.BytesIO()
    np.save(file, rows)
    write_atomic(path, file.getvalue())


def split(texts: Sequence[str]) -> dict[str, list[str]]:
    """Articles of each part; the parts have about the `SHARES` of all characters."""
    ordered = sorted(texts, key=lambda text: sha256(text.encode()).digest())
    total, characters = sum(map(len, ordered)), 0
    parts: dict[str, list[str]] = {name: [] for name in SHARES}
    ends, cumulative = {}, 0.0
    for name, share in SHARES.items():
        cumulative += share
        ends[name] = cumulative * total
    for text in ordered:
        middle = characters + len(text) / 2
        name = next((name for name, end in ends.items() if middle < end), "sealed")
        parts[name].append(text)
        characters += len(text)
    short = [name for name, articles in parts.items() if len(articles) < LEAST]
    if short:
        raise UserError(
            f"{len(texts)} articles are too few to split: each part needs {LEAST}, and "
            f"{', '.join(short)} would have fewer"
        )
    return parts
