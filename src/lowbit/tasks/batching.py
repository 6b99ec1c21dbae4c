"""Examples in a stated order become padded tensors.

Order and batching are apart: an epoch's order is a pure function of the seed and the epoch, so a
run that was killed knows its place again from two integers, and evaluation is the order 0, 1, 2.
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


def batches(part: Sequence[Example], size: int, pad: int, order: Sequence[int]) -> Iterator[Batch]:
    """`part` in `order`, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(order), size):
        index = tuple(order[start : start + size])
        yield _collate([part[i] for i in index], pad, index)


def _collate(examples: list[Example], pad: int, index: tuple[int, ...]) -> Batch:
    ids = _padded([example.ids for example in examples], pad)
    lengths = torch.tensor([len(example.ids) for example in examples])
    mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
    if examples[0].kind == "classification":
        target = torch.tensor([int(example.target[0]) for example in examples])
    else:
        target = _padded([example.target for example in examples], IGNORED)
    return Batch(ids, mask, target, index)


def _padded(rows: list[np.ndarray], fill: int) -> torch.Tensor:
    block = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for line, row in zip(block, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(block)
