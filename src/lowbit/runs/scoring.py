"""Scores a model on the scored split: writes a line for each example, returns the metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from lowbit.core.files import write_jsonl
from lowbit.runs.prepare import Prepared
from lowbit.runs.record import SCORES
from lowbit.train.evaluate import ExampleScores, evaluate, ratio


def score(model: nn.Module, prepared: Prepared, folder: Path) -> dict[str, float]:
    """Write every example's score; return the metrics, or {} if a score is not finite."""
    part, kind = prepared.data.parts["scored"], prepared.kind
    size = prepared.spec.train.eval_batch
    scores, loss = evaluate(model, part, kind, size, next(model.parameters()).device)
    value = ratio(scores)
    if not all(map(math.isfinite, (value, loss, *(s for s, _ in scores)))):
        return {}
    write_jsonl(folder / SCORES, _score_lines(prepared, scores))
    metrics: dict[str, float] = {prepared.task.metric: value, "loss": loss}
    if kind == "language":
        words = sum(example.words for example in part)
        a_word = sum(s for s, _ in scores) / max(1, words)
        # A finite loss can have an exponential that overflows.
        nats = {"perplexity": value, "word_perplexity": a_word}
        metrics |= {name: math.exp(nat) for name, nat in nats.items() if nat < 700}
    return metrics


def _score_lines(prepared: Prepared, scores: ExampleScores) -> list[dict[str, Any]]:
    return [
        {"example": i, "document": example.document, "sum": s, "count": c, "words": example.words}
        for i, (example, (s, c)) in enumerate(
            zip(prepared.data.parts["scored"], scores, strict=True)
        )
    ]
