"""Order examples and collate them into batches of packed tokens.

An epoch's order is a pure function of the seed and the epoch. A run that was killed therefore needs
only its step number to continue with the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lowbit.tasks.base import IGNORED, Batch, Example


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The positions 0 .. count - 1 in this epoch's random order."""
    return np.random.default_rng((seed, epoch)).permutation(count).tolist()


def by_length(part: Sequence[Example], order: Sequence[int]) -> list[int]:
    """`order` sorted by the examples' lengths; examples of equal length stay in order."""
    return sorted(order, key=lambda i: len(part[i].ids))


def batches(part: Sequence[Example], size: int, order: Sequence[int]) -> Iterator[Batch]:
    """`part` in `order`, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(order), size):
        yield collate(part, order[start : start + size])


def split_by_tokens(
    part: Sequence[Example], tokens: int, order: Sequence[int]
) -> Iterator[list[int]]:
    """`order` cut into slices of at most `tokens` tokens each, but at least one example."""
    current: list[int] = []
    size = 0
    for i in order:
        if current and size + len(part[i].ids) > tokens:
            yield current
            current, size = [], 0
        current.append(i)
        size += len(part[i].ids)
    if current:
        yield current


def nth_slice(part: Sequence[Example], order: Sequence[int], number: int, count: int) -> list[int]:
    """The `number`-th of `count` slices of `order` with about equally many tokens.

    An example belongs to the slice in which its first token is. No slice is empty if no example is
    longer than a slice.
    """
    ends = np.cumsum([len(part[i].ids) for i in order])
    starts = np.concatenate([[0], ends[:-1]])
    low, high = np.searchsorted(starts * count // ends[-1], [number, number + 1])
    return list(order[low:high])


def join_batches(several: Sequence[Batch]) -> Batch:
    """Several batches as one."""
    return Batch(
        ids=torch.cat([batch.ids for batch in several]),
        target=torch.cat([batch.target for batch in several]),
        lengths=tuple(n for batch in several for n in batch.lengths),
        labels=tuple(n for batch in several for n in batch.labels),
        index=tuple(i for batch in several for i in batch.index),
    )


def collate(part: Sequence[Example], index: Sequence[int]) -> Batch:
    """Some examples of a part as one batch."""
    examples = [part[i] for i in index]
    targets = [np.asarray(example.target, np.int64) for example in examples]
    return Batch(
        ids=torch.from_numpy(np.concatenate([e.ids for e in examples]).astype(np.int64)),
        target=torch.from_numpy(np.concatenate(targets)),
        lengths=tuple(len(e.ids) for e in examples),
        labels=tuple(int((target != IGNORED).sum()) for target in targets),
        index=tuple(index),
    )
