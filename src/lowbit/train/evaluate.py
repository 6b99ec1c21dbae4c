"""Score a part of a task without gradients and without changing the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from lowbit.tasks.base import Batch, Example
from lowbit.tasks.batching import by_length, collate, split_by_tokens
from lowbit.train.losses import Kind, scores

ExampleScores = list[tuple[float, int]]


def evaluate(
    model: nn.Module, part: Sequence[Example], kind: Kind, size: int, device: torch.device
) -> tuple[ExampleScores, float]:
    """((sum, count) of every example, mean loss), in evaluation mode and without gradients.

    A batch holds at most as many tokens as `size` examples of the greatest length.
    """
    was_training = model.training
    model.eval()
    by_index: dict[int, tuple[float, int]] = {}
    loss, labels = 0.0, 0
    order = by_length(part, range(len(part)))
    tokens = size * len(part[order[-1]].ids)
    for index in split_by_tokens(part, tokens, order):
        batch = collate(part, index)
        sums, counts, summed = scores(model, kind, to_device(batch, device))
        by_index.update(zip(batch.index, zip(sums, counts, strict=True), strict=True))
        loss, labels = loss + summed, labels + sum(counts)
    model.train(was_training)
    return [by_index[i] for i in range(len(part))], loss / labels


def ratio(example_scores: Sequence[tuple[float, int]]) -> float:
    """The metric: the sum of scores divided by the sum of counts."""
    return sum(s for s, _ in example_scores) / sum(c for _, c in example_scores)


def to_device(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return replace(batch, ids=batch.ids.to(device), target=batch.target.to(device))
