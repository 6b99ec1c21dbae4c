"""Examples in a stated order become batches of tokens, one example after another.

Order and batching are apart: an epoch's order is a pure function of the seed and the epoch, so a
run that was killed knows its place again from two integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lowbit.tasks.base import Batch, Example

IGNORED = -100


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The positions 0 .. count - 1 in the order in which this epoch visits them."""
    return np.random.default_rng((seed, epoch)).permutation(count).tolist()


def by_length(part: Sequence[Example], order: Sequence[int]) -> list[int]:
    """The same examples, alike lengths together; equal lengths stay in order."""
    return sorted(order, key=lambda i: len(part[i].ids))


def batches(part: Sequence[Example], size: int, order: Sequence[int]) -> Iterator[Batch]:
    """`part` in `order`, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(order), size):
        yield collate(part, order[start : start + size])


def filled(part: Sequence[Example], tokens: int, order: Sequence[int]) -> Iterator[list[int]]:
    """`order` cut into stretches of at most so many tokens each, and at least one example."""
    stretch: list[int] = []
    held = 0
    for i in order:
        if stretch and held + len(part[i].ids) > tokens:
            yield stretch
            stretch, held = [], 0
        stretch.append(i)
        held += len(part[i].ids)
    if stretch:
        yield stretch


def stretch(part: Sequence[Example], order: Sequence[int], number: int, count: int) -> list[int]:
    """The `number`-th of `count` stretches of `order` with about as many tokens each.

    An example belongs where its first token falls; none is empty if none of the examples is
    longer than a stretch.
    """
    ends = np.cumsum([len(part[i].ids) for i in order])
    starts = np.concatenate([[0], ends[:-1]])
    low, high = np.searchsorted(starts * count // ends[-1], [number, number + 1])
    return list(order[low:high])


def joined(several: Sequence[Batch]) -> Batch:
    """Batches one after another as one."""
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
