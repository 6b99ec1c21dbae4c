"""A model with calibration text, whose weights can be changed in place and restored.

A format's error is the decoded weight minus the same weight in 16 bits, because gaps are counted
from the 16-bit model. If an adapter is merged into the model, the errors are still those of the
base weights, which are what a format stores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowbit.core.errors import RunError, run_error_prefix
from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.core.stats import clustered_error
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse
from lowbit.sensitivity.curvature import as_site, logits_of, target_of, weights_of
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import join_batches
from lowbit.train.losses import Kind

Errors = dict[str, Tensor]
"""The error of every site's weights, (out, in), by its name."""
OnProgress = Callable[[str, int, int], None]
"""Called with the phase, how many steps are done, and how many there are."""
HESSIAN_WORK, GAUSS_NEWTON_WORK = 6.0, 3.0
"""The work of a Hessian product and of a Gauss-Newton product, in forward passes."""
MAX_TOKENS, MAX_LOGITS = 2048, 2**23
"""The most tokens, and the most logits, in one pass without gradients."""


@dataclass
class MeasuredModel:
    """A model, and the sequences to measure it on.

    `base`: the exact weights that formats store, (out, in) per site; None: the module's own.
    `documents`: the document of every sequence (empty: a document each). `curved`: indices of the
    sequences used for second derivatives and noise (empty: all). `passes`: work so far, in forward
    passes over all sequences. `file_formats`: the formats that keep the matrices of a GGUF file.
    """

    module: nn.Module
    sites: tuple[Site, ...]
    batches: Sequence[Batch]
    kind: Kind = "language"
    base: Mapping[str, Tensor] | None = None
    documents: Sequence[int] = ()
    curved: Sequence[int] = ()
    passes: float = 0.0
    file_formats: Mapping[str, str] = field(default_factory=dict)

    @property
    def blocks(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.role in BLOCK_ROLES)

    def weight(self, name: str) -> Tensor:
        """The exact weight that a format stores for a site."""
        if self.base is not None:
            return self.base[name]
        weight: Tensor = self.module.get_submodule(name).weight.detach()  # type: ignore
        return as_site(self.module, name, weight).float()

    def error(self, name: str, text: str) -> Tensor:
        """The error that a format makes at a site, beyond that of 16 bits."""
        weight = self.weight(name)
        if self.file_formats.get(name) == text:
            # A GGUF file's matrix in the file's own format is copied, not encoded.
            decoded = weight
        else:
            with run_error_prefix(f"{name} in {text}"):
                decoded = decode(encode(weight, parse(text)))
        return decoded - (weight if self.base is None else in_bf16(weight))

    @property
    def subset(self) -> list[Batch]:
        """The sequences for second derivatives and noise."""
        return [self.batches[i] for i in self.curved] if self.curved else list(self.batches)

    def count_work(self, passes: float, on_subset: bool = False) -> None:
        """Add to `passes`; work on the subset counts by its share of all tokens."""
        share = 1.0
        if on_subset:
            share = sum(sum(batch.labels) for batch in self.subset) / sum(self.counts)
        self.passes += passes * share

    @torch.no_grad()
    def log_probs(self, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """The log-probabilities of each sequence at the current weights, several in one pass."""
        for group in self._groups(batches):
            values = logits_of(self.module, join_batches(group), self.kind).log_softmax(-1)
            yield from values.split([sum(batch.labels) for batch in group])

    def _groups(self, batches: Sequence[Batch]) -> Iterator[list[Batch]]:
        """The sequences in order, grouped within `MAX_TOKENS` and `MAX_LOGITS`."""
        vocabulary = getattr(self.module.config, "vocab_size", 1) if self.kind == "language" else 1
        most, group, tokens = min(MAX_TOKENS, MAX_LOGITS // vocabulary), list[Batch](), 0
        for batch in batches:
            if group and tokens + len(batch.ids) > most:
                yield group
                group, tokens = [], 0
            group.append(batch)
            tokens += len(batch.ids)
        if group:
            yield group

    def outputs(self) -> list[Tensor]:
        """The log-probabilities of every sequence, to compare changed models with.

        All are views of one tensor: allocating thousands of small ones in between is slow.
        """
        self.count_work(1)
        buffer, rows = torch.empty(0), 0
        for values in self.log_probs(self.batches):
            if not rows:
                buffer = values.new_empty(sum(self.counts), values.shape[-1])
            buffer[rows : rows + len(values)] = values
            rows += len(values)
        return list(buffer.split(self.counts))

    def losses_and_kl(self, reference: Sequence[Tensor]) -> tuple[list[float], list[float]]:
        """The loss of every sequence at the current weights, and its KL from reference outputs."""
        self.count_work(1)
        losses, kl = [], []
        pairs = zip(self.batches, reference, self.log_probs(self.batches), strict=True)
        for batch, old, new in pairs:
            losses.append(_loss(new, batch))
            kl.append(kl_divergence(old, new))
        if not all(map(math.isfinite, (*losses, *kl))):
            raise RunError("the outputs of the stored model are not finite: leave this format out")
        return losses, kl

    def losses(self, outputs: Iterable[Tensor]) -> list[float]:
        """The loss of every sequence from its outputs, summed over its targets."""
        return [_loss(x, b) for x, b in zip(outputs, self.batches, strict=True)]

    def current_losses(self) -> list[float]:
        """The loss of every sequence at the current weights."""
        self.count_work(1)
        return self.losses(self.log_probs(self.batches))

    def subset_loss(self) -> float:
        """The loss per token at the current weights, over the subset."""
        self.count_work(1, on_subset=True)
        return self.loss_on(self.subset)

    def loss_on(self, batches: Sequence[Batch]) -> float:
        """The loss per token at the current weights; the caller counts the work."""
        sums = [_loss(x, batch) for x, batch in zip(self.log_probs(batches), batches, strict=True)]
        return sum(sums) / sum(sum(batch.labels) for batch in batches)

    @property
    def counts(self) -> list[int]:
        """How many targets every sequence has: its tokens, or one sentence."""
        return [sum(batch.labels) for batch in self.batches]

    def spread(self, sums: Sequence[float]) -> float:
        """The standard error of a mean per target, from the sums of every sequence."""
        return clustered_error(sums, self.counts, self.clusters)

    @property
    def clusters(self) -> Sequence[int]:
        """The independent units of standard errors: documents, or the sequences of a single one."""
        several = len(set(self.documents)) > 1
        return self.documents if several else range(len(self.batches))

    def subset_spread(self, sums: Sequence[float]) -> float:
        """The same standard error, from the sums of the subset's sequences."""
        indices = self.curved or range(len(self.batches))
        clusters = [self.clusters[i] for i in indices]
        return clustered_error(sums, [self.counts[i] for i in indices], clusters)


def _loss(outputs: Tensor, batch: Batch) -> float:
    # Summed in double precision, because second differences depend on the last digits.
    return -float(outputs.gather(1, target_of(batch)[:, None]).double().sum())


def in_bf16(weight: Tensor) -> Tensor:
    """A weight as 16 bits store it."""
    return decode(encode(weight, parse("bf16")))


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q) from log-probabilities, summed over rows."""
    return float((p.exp() * (p - q)).sum())


@contextmanager
def shifted(model: MeasuredModel, by: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with tensors added to some weights; afterwards the weights are restored exactly."""
    weights = weights_of(model.module, [site for site in model.sites if site.name in by])
    originals = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(as_site(model.module, name, by[name]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(originals[name])
