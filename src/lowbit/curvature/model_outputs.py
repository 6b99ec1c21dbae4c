"""What a model gives for some sequences: losses, and the KL between two models.

A language model's logits are never held for more than a slice of tokens. What is kept is the last
hidden state of every token, from which its logits are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.core.errors import RunError
from lowbit.core.spec import Site
from lowbit.curvature.site_curvature import target_of
from lowbit.curvature.weight_changes import NO_CHANGE, Errors
from lowbit.layers.matmul import FastProducts
from lowbit.tasks.base import Batch
from lowbit.train.losses import Kind

MAX_LOGITS = 2**22
"""The most logits held at a time."""


class HasHead(Protocol):
    """The parts of a `MeasuredModel` that its outputs need."""

    kind: Kind

    @property
    def head(self) -> nn.Linear: ...
    @property
    def head_site(self) -> Site | None: ...


@dataclass
class Outputs:
    """What a model gives for some sequences, from which log-probabilities follow.

    `rows`: the last hidden state of every scored token, for every sequence; log-probabilities of a
    classifier. `change`: what was added to the weights in that pass.
    """

    model: HasHead
    rows: Sequence[Tensor]
    batches: Sequence[Batch]
    change: Errors

    @cached_property
    def _own_losses(self) -> list[float]:
        return [sum(_losses(part) for part in parts) for parts in self._parts(self)]

    def losses(self) -> list[float]:
        """The loss of every sequence, summed over its targets."""
        return list(self._own_losses)

    def losses_and_kl(self, reference: Outputs) -> tuple[list[float], list[float]]:
        """The loss of every sequence, and its KL from the reference."""
        losses, kl = [], []
        for parts in self._parts(self, reference):
            both = [(_losses(part), _kl(part)) for part in parts]
            losses.append(sum(loss for loss, _ in both))
            kl.append(sum(each for _, each in both))
        return losses, kl

    def kl_to(self, others: Sequence[Outputs]) -> list[float]:
        """The KL of each of the others from these outputs, summed over all sequences."""
        sums = [0.0] * len(others)
        for parts in self._parts(self, *others):
            for _, before, *after in parts:
                for i, now in enumerate(after):
                    sums[i] += kl_divergence(before, now)
        return sums

    def log_probs(self) -> list[Tensor]:
        """The log-probabilities of every sequence; for small models only."""
        return [torch.cat([part[1] for part in parts]) for parts in self._parts(self)]

    @torch.no_grad()
    def _parts(self, *several: Outputs) -> Iterator[Iterator[tuple[Tensor, ...]]]:
        """For every sequence: slices of its targets, and the log-probabilities of each output."""
        heads = _heads(several)
        for i, batch in enumerate(self.batches):
            yield _slices(target_of(batch), [o.rows[i] for o in several], heads)


def _slices(
    target: Tensor, rows: Sequence[Tensor], heads: Sequence[Head]
) -> Iterator[tuple[Tensor, ...]]:
    size = max(1, min(head.rows_at_a_time for head in heads))
    for start in range(0, len(target), size):
        part = slice(start, start + size)
        log_probs = (head(each[part]) for each, head in zip(rows, heads, strict=True))
        yield target[part], *log_probs


class Head:
    """From last hidden states to log-probabilities, with a change of the head's weights."""

    def __init__(self, model: HasHead, change: Errors) -> None:
        self.weight: Tensor | None = None
        if model.kind == "classification":
            self.rows_at_a_time = MAX_LOGITS
            return
        head, site = model.head, model.head_site
        weight = head.weight.detach()
        self.weight = weight if weight.dtype == torch.float64 else weight.float()
        if site is not None and site.name in change:
            own = weight.clone() if self.weight is weight else self.weight
            self.weight = own.add_(change[site.name])
        self.bias: Tensor | None = getattr(head, "bias", None)
        # In a small model, slices of `MAX_LOGITS` would be most of the memory.
        most = min(MAX_LOGITS, self.weight.numel() // 4)
        self.rows_at_a_time = max(1, most // len(self.weight))

    def __call__(self, rows: Tensor) -> Tensor:
        if self.weight is None:
            return rows
        return self.logits(rows).log_softmax(-1)

    def logits(self, rows: Tensor) -> Tensor:
        assert self.weight is not None
        with FastProducts():
            return F.linear(rows, self.weight, self.bias)


def _heads(several: Sequence[Outputs]) -> list[Head]:
    """The head of each output; one for all whose heads are unchanged."""
    site = several[0].model.head_site
    plain, heads = None, []
    for each in several:
        if site is not None and site.name in each.change:
            heads.append(Head(each.model, each.change))
        else:
            plain = plain or Head(each.model, NO_CHANGE)
            heads.append(plain)
    return heads


def check_finite(losses: Sequence[float], kl: Sequence[float]) -> None:
    if not all(map(math.isfinite, (*losses, *kl))):
        raise RunError("the outputs of the stored model are not finite: leave this format out")


def _losses(part: tuple[Tensor, ...]) -> float:
    # Summed in double precision, because second differences depend on the last digits.
    target, log_probs, *_ = part
    return -float(log_probs.gather(1, target[:, None]).double().sum())


def _kl(part: tuple[Tensor, ...]) -> float:
    _, now, before = part
    return kl_divergence(before, now)


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q) from log-probabilities, summed over rows."""
    return float((p.exp() * (p - q)).sum())
