"""A model to be looked at, the text for it, and its weights moved and put back.

Errors are what a format gives less what 16 bits give, since gaps are counted from the 16-bit model.
Where the model stands elsewhere than its base (an adapter merged into it), the errors are still
those of the base: that is what is stored in few bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowbit.core.errors import RunError, about
from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.core.stats import clustered_error
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse
from lowbit.sensitivity.curvature import as_site, logits_of, target_of, weights_of
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import joined
from lowbit.train.losses import Kind

Errors = dict[str, Tensor]
Told = Callable[[str, int, int], None]
# What each step costs, in forward passes.
HESSIAN, NEWTON = 6.0, 3.0
TOKENS, OUTPUTS = 2048, 2**23
"""Most tokens, and most of their logits, that a pass without gradients takes at once."""


@dataclass
class Lab:
    """A model, and sequences to measure it on.

    `base`: the exact weights that formats store, (out, in) a site; None: the model's own, and
    errors are counted from them. `documents`: which document every sequence is of (none: one each).
    `curved`: places of the sequences that second derivatives and noise are taken on (none: all).
    `passes`: work so far, in forward passes over the sequences.
    """

    model: nn.Module
    sites: tuple[Site, ...]
    batches: Sequence[Batch]
    kind: Kind = "language"
    base: Mapping[str, Tensor] | None = None
    documents: Sequence[int] = ()
    curved: Sequence[int] = ()
    passes: float = 0.0

    @property
    def blocks(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.role in BLOCK_ROLES)

    def weight(self, name: str) -> Tensor:
        """What is stored of a site."""
        if self.base is not None:
            return self.base[name]
        weight: Tensor = self.model.get_submodule(name).weight.detach()  # type: ignore
        return as_site(self.model, name, weight).float()

    def error(self, name: str, text: str) -> Tensor:
        """What a format does to a site, beyond what 16 bits do."""
        weight = self.weight(name)
        with about(f"{name} in {text}"):
            found = decode(encode(weight, parse(text)))
        return found - (weight if self.base is None else rounded(weight))

    @property
    def few(self) -> list[Batch]:
        """The sequences that second derivatives and noise are taken on."""
        return [self.batches[i] for i in self.curved] if self.curved else list(self.batches)

    def worked(self, passes: float, few: bool = False) -> None:
        """Counts work; over the few, for their share of the whole."""
        part = sum(sum(batch.labels) for batch in self.few) / sum(self.counts) if few else 1.0
        self.passes += passes * part

    @torch.no_grad()
    def seen(self, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """Log-probabilities of sequence after sequence, as the model stands; several in a pass."""
        for some in self._together(batches):
            found = logits_of(self.model, joined(some), self.kind).log_softmax(-1)
            yield from found.split([sum(batch.labels) for batch in some])

    def _together(self, batches: Sequence[Batch]) -> Iterator[list[Batch]]:
        """Sequences in turn, as many at once as make no more than so many tokens and outputs."""
        wide = getattr(self.model.config, "vocab_size", 1) if self.kind == "language" else 1
        most, some, held = min(TOKENS, OUTPUTS // wide), list[Batch](), 0
        for batch in batches:
            if some and held + len(batch.ids) > most:
                yield some
                some, held = [], 0
            some.append(batch)
            held += len(batch.ids)
        if some:
            yield some

    def outputs(self) -> list[Tensor]:
        """Log-probabilities of every sequence, to be kept: in one piece of memory, since thousands
        of pieces among what comes and goes are slow to find room between."""
        self.worked(1)
        kept, rows = torch.empty(0), 0
        for found in self.seen(self.batches):
            if not rows:
                kept = found.new_empty(sum(self.counts), found.shape[-1])
            kept[rows : rows + len(found)] = found
            rows += len(found)
        return list(kept.split(self.counts))

    def beside(self, before: Sequence[Tensor]) -> tuple[list[float], list[float]]:
        """As the model stands: every sequence's loss, and its outputs' KL from those before."""
        self.worked(1)
        losses, apart = [], []
        for batch, old, new in zip(self.batches, before, self.seen(self.batches), strict=True):
            losses.append(_loss(new, batch))
            apart.append(divergence(old, new))
        if not all(map(math.isfinite, (*losses, *apart))):
            raise RunError("the outputs of the stored model are not finite: leave this format out")
        return losses, apart

    def losses(self, outputs: Iterable[Tensor]) -> list[float]:
        """Of every sequence, summed over what is scored in it."""
        return [_loss(x, b) for x, b in zip(outputs, self.batches, strict=True)]

    def losses_now(self) -> list[float]:
        """The same as the model stands."""
        self.worked(1)
        return self.losses(self.seen(self.batches))

    def loss_of_few(self) -> float:
        """As the model stands, a token, over the few."""
        self.worked(1, few=True)
        return self.loss_on(self.few)

    def loss_on(self, batches: Sequence[Batch]) -> float:
        """As the model stands, a token; whoever asks counts the work."""
        sums = [_loss(x, batch) for x, batch in zip(self.seen(batches), batches, strict=True)]
        return sum(sums) / sum(sum(batch.labels) for batch in batches)

    @property
    def counts(self) -> list[int]:
        """What is scored in every sequence: its tokens, or one sentence."""
        return [sum(batch.labels) for batch in self.batches]

    def spread(self, sums: Sequence[float]) -> float:
        """Standard error of a mean over what is scored, from sums of every sequence."""
        return clustered_error(sums, self.counts, self.clusters)

    @property
    def clusters(self) -> Sequence[int]:
        """What is drawn where errors are asked for: documents, or of a single one its stretches."""
        whole = len(set(self.documents)) > 1
        return self.documents if whole else range(len(self.batches))

    def spread_of_few(self, sums: Sequence[float]) -> float:
        """The same from sums of the few sequences."""
        places = self.curved or range(len(self.batches))
        drawn = [self.clusters[i] for i in places]
        return clustered_error(sums, [self.counts[i] for i in places], drawn)


def _loss(outputs: Tensor, batch: Batch) -> float:
    # Summed in double precision: second differences are of the last digits.
    return -float(outputs.gather(1, target_of(batch)[:, None]).double().sum())


def rounded(weight: Tensor) -> Tensor:
    """As 16 bits store it."""
    return decode(encode(weight, parse("bf16")))


def divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q) from log-probabilities, summed over rows."""
    return float((p.exp() * (p - q)).sum())


@contextmanager
def moved(lab: Lab, by: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with some weights moved, and exactly as it was afterwards."""
    weights = weights_of(lab.model, [site for site in lab.sites if site.name in by])
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(as_site(lab.model, name, by[name]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])
