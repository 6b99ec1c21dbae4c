"""Calibration text: sequences spread evenly over a task's data, and a subset of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowbit.core.errors import UserError
from lowbit.runs.prepare import Prepared
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import collate

MIN_TOKENS = 512
"""With fewer tokens, second derivatives mean nothing."""

CalibrationText = tuple[list[Batch], list[int]]
"""Sequences, one per batch, and the document of each."""


def calibration_text(
    prepared: Prepared,
    tokens: int,
    parts: Sequence[str] = ("calibration",),
    least: int = MIN_TOKENS,
) -> CalibrationText:
    """About `tokens` tokens, in sequences spread evenly over these parts of the data.

    A document counts by its length, as in the scored part.
    """
    examples = [
        (part, i, e) for part in parts for i, e in enumerate(prepared.data.parts.get(part, ()))
    ]
    sizes = [len(example.ids) for *_, example in examples]
    count = sum(sizes)
    if count < min(tokens, least):
        # A sentence has one loss; every token has its own.
        units = len(sizes) if prepared.task.kind == "classification" else count
        raise UserError(
            f"{prepared.task.name} has {count:,} tokens to calibrate on; {min(tokens, least):,} "
            "are needed: a gap of 0.01 nats would be known to "
            f"± {1.96 * math.sqrt(0.02 / max(1, units)):.3f}"
        )
    chosen = [examples[i] for i in evenly_spaced(sizes, tokens)]
    numbers: dict[tuple[str, int], int] = {}
    batches = [collate(prepared.data.parts[part], [i]) for part, i, _ in chosen]
    documents = [numbers.setdefault((part, e.document), len(numbers)) for part, _, e in chosen]
    return batches, documents


def subset_indices(batches: Sequence[Batch], tokens: int) -> tuple[int, ...]:
    """Indices of evenly spaced sequences with about `tokens` tokens; empty for all sequences."""
    sizes = [sum(batch.labels) for batch in batches]
    return evenly_spaced(sizes, tokens) if tokens and tokens < sum(sizes) else ()


def evenly_spaced(sizes: Sequence[int], total: int) -> tuple[int, ...]:
    """Evenly spaced indices of items whose sizes sum to about `total`; all if there are no more."""
    if total >= sum(sizes):
        return tuple(range(len(sizes)))
    count = math.ceil(len(sizes) * total / sum(sizes))
    return tuple(int(i * len(sizes) / count) for i in range(count))
