"""Passes over text that go block after block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowbit.curvature.full_precision import upcast_embeddings
from lowbit.curvature.weight_changes import NO_CHANGE, Errors
from lowbit.layers.matmul import FastProducts
from lowbit.models.blocks import Arguments
from lowbit.models.packed_attention import Segments
from lowbit.tasks.base import Batch

MAX_TOKENS = 512
"""The most tokens that are in a block at a time, without gradients."""


@dataclass(frozen=True)
class Pass:
    """A pass over some sequences that has reached a block: the hidden states that it is given."""

    batches: Sequence[Batch]
    groups: Sequence[Sequence[Batch]]
    joined: Sequence[Batch]
    states: Sequence[Tensor]
    arguments: Sequence[Arguments]


def segments_of(batch: Batch) -> Segments:
    return Segments(batch.lengths, batch.ids.device)


def groups_of(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """The sequences in order, in groups of up to `MAX_TOKENS`."""
    group, tokens = list[Batch](), 0
    for batch in batches:
        if group and tokens + len(batch.ids) > MAX_TOKENS:
            yield group
            group, tokens = [], 0
        group.append(batch)
        tokens += len(batch.ids)
    if group:
        yield group


@contextmanager
def passing(module: nn.Module, change: Errors = NO_CHANGE) -> Iterator[None]:
    """Around every pass: embeddings give fp32, and products are the fastest of this machine.

    Attention is by plain products. torch's kernel for a CPU gives finite outputs where a query is
    NaN, which would hide a broken model, and its backward pass takes twice as long.
    """
    with upcast_embeddings(module, change), sdpa_kernel(SDPBackend.MATH), FastProducts():
        yield
