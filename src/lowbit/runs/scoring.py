"""The scored split, read once: every example's score on disk, the metrics in the record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from lowbit.core.files import write_lines
from lowbit.runs.prepare import (Prepared)
from lowbit.runs.record import SCORES
from lowbit.train.evaluate import Found, evaluate, ratio


def score(model: nn.Module, start: Prepared, size: int, folder: Path) -> dict[str, float]:
    """Read the scored split, once; no metrics at all where a score is not finite."""
    part, kind = start.data.parts["scored"], start.task.kind
    found, loss = evaluate(model, part, kind, size, next(model.parameters()).device)
    value = ratio(found)
    if not all(map(math.isfinite, (value, loss, *(s for s, _ in found)))):
        return {}
    write_lines(folder / SCORES, _score_lines(start, found))
    metrics: dict[str, float] = {start.task.metric: value, "loss": loss}
    if kind == "language":
        words = sum(example.words for example in part)
        a_word = sum(s for s, _ in found) / max(1, words)
        # A loss can be finite while its exponential is no number any more.
        nats = {"perplexity": value, "word_perplexity": a_word}
        metrics |= {name: math.exp(nat) for name, nat in nats.items() if nat < 700}
    return metrics


def _score_lines(start: Prepared, found: Found) -> list[dict[str, Any]]:
    return [
        {"example": i, "document": example.document, "sum": s, "count": c, "words": example.words}
        for i, (example, (s, c)) in enumerate(zip(start.data.parts["scored"], found, strict=True))
    ]
