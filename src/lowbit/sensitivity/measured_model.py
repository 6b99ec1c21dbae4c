"""A model with calibration text, whose weights can be changed and restored.

A format's error is the decoded weight minus the same weight in 16 bits, because gaps are counted
from the 16-bit model. If an adapter is merged into the model, the errors are still those of the
base weights, which are what a format stores.

Weights may be held in 16 bits, or stay in the checkpoint until their block is used. Every pass goes
block after block and has one block's weights in fp32, with the changes in force added. Logits are
never held for more than a slice of tokens: what
is kept of a pass is the last hidden state of every token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.core.errors import RunError, run_error_prefix
from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.core.stats import clustered_error
from lowbit.layers.matmul import FastProducts
from lowbit.models.blocks import Arguments, Blocks
from lowbit.models.family import family_of
from lowbit.models.packed_attention import Segments
from lowbit.models.weights import Weights
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse
from lowbit.sensitivity.curvature import as_site, target_of
from lowbit.sensitivity.full_precision import (
    hold_in_16_bits,
    in_full_precision,
    trainable,
    upcast_embeddings,
)
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import join_batches
from lowbit.train.losses import IGNORED, Kind

Errors = Mapping[str, Tensor]
"""The error of every site's weights, (out, in), by its name."""
OnProgress = Callable[[str, int, int], None]
"""Called with the phase, how many steps are done, and how many there are."""
HESSIAN_WORK, GAUSS_NEWTON_WORK = 6.0, 3.0
"""The work of a Hessian product and of a Gauss-Newton product, in forward passes."""
MAX_TOKENS, MAX_LOGITS = 512, 2**22
"""The most tokens in one pass without gradients, and the most logits held at a time."""
WEIGHTS_AT_A_TIME = 2**21
NO_CHANGE: Errors = {}


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
    change: Errors = field(default_factory=dict)
    """What is added to the weights at present; see `shifted`."""
    source: Weights | None = None
    """Where a block's weights are read from whenever it is used; None: `module` has them all."""

    @property
    def block_sites(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.role in BLOCK_ROLES)

    @cached_property
    def blocks(self) -> Blocks:
        return Blocks(self.module, self.sites)

    # --- weights ----------------------------------------------------------------------------------

    def weight(self, name: str) -> Tensor:
        """The exact weight that a format stores for a site."""
        return self._stored(name).float()

    def _stored(self, name: str) -> Tensor:
        """The exact weight, (out, in), in the type that it is held in."""
        if self.base is not None and name in self.base:
            return self.base[name]
        weight: Tensor = self.module.get_submodule(name).weight.detach()  # type: ignore
        if weight.is_meta:
            assert self.source is not None
            weight = self.source.matrix(name, tuple(weight.shape))
        return as_site(self.module, name, weight)

    def variance(self, name: str) -> float:
        """The variance of a site's weights."""
        total = square = 0.0
        weight = self._stored(name)
        for part in weight.split(max(1, WEIGHTS_AT_A_TIME // weight.shape[1])):
            numbers = part.double()
            total += float(numbers.sum())
            square += float(numbers.square().sum())
        count = weight.numel()
        return max(0.0, square - total**2 / count) / max(1, count - 1)

    def error(self, name: str, text: str) -> Tensor:
        """The error that a format makes at a site, beyond that of 16 bits."""
        error = torch.empty(self._stored(name).shape)
        for part, rows in self.error_parts(name, text):
            error[part] = rows
        return error

    def error_parts(self, name: str, text: str) -> Iterator[tuple[slice, Tensor]]:
        """The same, some rows at a time: rounding a matrix takes several times its memory."""
        spec, weight = parse(text), self._stored(name)
        step = len(weight)
        if not spec.dq and spec.group != "tensor":
            step = max(1, WEIGHTS_AT_A_TIME // weight.shape[1])
        for start in range(0, len(weight), step):
            part = slice(start, start + step)
            rows = weight[part].float()
            with run_error_prefix(f"{name} in {text}"):
                # A GGUF file's matrix in the file's own format is copied, not encoded.
                kept = self.file_formats.get(name) == text
                decoded = rows.clone() if kept else decode(encode(rows, spec))
            held = rows if weight.dtype == torch.bfloat16 or self._is_own(name) else in_bf16(rows)
            yield part, decoded.sub_(held)

    def _is_own(self, name: str) -> bool:
        """Whether the weight that formats store is the module's own, whatever its type."""
        return self.source is None and (self.base is None or name not in self.base)

    def errors(self, formats: Mapping[str, str]) -> Errors:
        """The errors of many sites in their formats."""
        return Lazy(formats, lambda name: self.error(name, formats[name]))

    @contextmanager
    def in_use(self, module: nn.Module, name: str) -> Iterator[None]:
        """A part of the model with its weights in fp32 and the present change added."""
        with self._filled(module, name), in_full_precision(module, name, self.change):
            yield

    @contextmanager
    def _filled(self, module: nn.Module, name: str) -> Iterator[None]:
        """A part of the model with its weights, as 16 bits store them."""
        if self.source is None:
            yield
            return
        with self.source.filled(module, name):
            hold_in_16_bits(module)
            yield

    # --- passes -----------------------------------------------------------------------------------

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

    def outputs_on(self, batches: Sequence[Batch]) -> Outputs:
        """The outputs for some sequences at the current weights; the caller counts the work."""
        return self.outputs_from([self.starting(batches)], 0)[0]

    @torch.no_grad()
    def starting(self, batches: Sequence[Batch]) -> Pass:
        """A pass over some sequences that has reached the first block."""
        groups = list(_groups(batches))
        joined = [join_batches(group) for group in groups]
        with passing(self, self.change):
            pairs = [self.blocks.first_inputs(batch.ids, segments_of(batch)) for batch in joined]
        return Pass(batches, groups, joined, [h for h, _ in pairs], [a for _, a in pairs])

    @torch.no_grad()
    def advanced(self, passes: Sequence[Pass], depth: int) -> list[Pass]:
        """Some passes after this block, at the current weights."""
        block, name = self.blocks.modules[depth], self.blocks.name(depth)
        after = []
        with passing(self), self.in_use(block, name):
            for at in passes:
                pairs = zip(at.states, at.arguments, strict=True)
                states = [self.blocks.run(depth, state, given) for state, given in pairs]
                after.append(replace(at, states=states))
        return after

    @torch.no_grad()
    def outputs_from(self, passes: Sequence[Pass], depth: int) -> list[Outputs]:
        """The outputs of passes that have reached this block, at the current weights."""
        for later in range(depth, len(self.blocks)):
            passes = self.advanced(passes, later)
        with passing(self):
            return [Outputs(self, self._rows(at), at.batches, self.change) for at in passes]

    def _rows(self, at: Pass) -> list[Tensor]:
        """Of every sequence, what its log-probabilities follow from; after the last block."""
        rows: list[Tensor] = []
        for group, batch, state in zip(at.groups, at.joined, at.states, strict=True):
            rows += self._last_rows(batch, state).split([sum(b.labels) for b in group])
        return rows

    def _last_rows(self, batch: Batch, state: Tensor) -> Tensor:
        """The last hidden state of every scored token; log-probabilities of every sentence."""
        segments = segments_of(batch)
        hidden = self.blocks.after(batch.ids, segments, state)
        if self.kind == "classification":
            return self.classify(hidden, segments).log_softmax(-1)
        scored = batch.target != IGNORED
        return hidden if bool(scored.all()) else hidden[scored]

    def classify(self, hidden: Tensor, segments: Segments) -> Tensor:
        """(sentences, classes) from the last hidden states."""
        family = family_of(self.module.config.model_type)  # type: ignore[union-attr, arg-type]
        with self.tail_in_use():
            return family.classify(self.module, hidden, segments).float()

    @contextmanager
    def tail_in_use(self) -> Iterator[None]:
        """The matrices after the blocks, except a language model's head."""
        with ExitStack() as stack:
            for site in self.tail:
                module = self.module.get_submodule(site.name)
                stack.enter_context(self.in_use(module, site.name))
            yield

    @cached_property
    def tail(self) -> tuple[Site, ...]:
        """The sites after the blocks, except a language model's head."""
        head = self.head_site
        return tuple(
            site
            for site in self.sites
            if site.depth is None
            and not isinstance(self.module.get_submodule(site.name), nn.Embedding)
            and (head is None or site.name != head.name)
        )

    @cached_property
    def head_site(self) -> Site | None:
        """The site of a language model's head, which may be tied to the embedding."""
        if self.kind == "classification":
            return None
        weight = self.head.weight
        same = (s for s in self.sites if self.module.get_submodule(s.name).weight is weight)
        return next(same, None)

    @property
    def head(self) -> nn.Linear:
        head: nn.Linear = self.module.get_output_embeddings()  # type: ignore[operator]
        return head

    def outputs(self) -> Outputs:
        """The outputs for every sequence, to compare changed models with."""
        self.count_work(1)
        return self.outputs_on(self.batches)

    def losses_and_kl(self, reference: Outputs) -> tuple[list[float], list[float]]:
        """The loss of every sequence at the current weights, and its KL from reference outputs."""
        self.count_work(1)
        losses, kl = self.outputs_on(reference.batches).losses_and_kl(reference)
        _check_finite(losses, kl)
        return losses, kl

    def current_losses(self) -> list[float]:
        """The loss of every sequence at the current weights."""
        return self.outputs().losses()

    def subset_loss(self) -> float:
        """The loss per token at the current weights, over the subset."""
        self.count_work(1, on_subset=True)
        return self.loss_on(self.subset)

    def loss_on(self, batches: Sequence[Batch]) -> float:
        """The loss per token at the current weights; the caller counts the work."""
        sums = self.outputs_on(batches).losses()
        return sum(sums) / sum(sum(batch.labels) for batch in batches)

    # --- standard errors --------------------------------------------------------------------------

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


@dataclass(frozen=True)
class Pass:
    """A pass over some sequences that has reached a block: the hidden states that it is given."""

    batches: Sequence[Batch]
    groups: Sequence[Sequence[Batch]]
    joined: Sequence[Batch]
    states: Sequence[Tensor]
    arguments: Sequence[Arguments]


@dataclass
class Outputs:
    """What a model gives for some sequences, from which log-probabilities follow.

    `rows`: the last hidden state of every scored token, for every sequence; log-probabilities of a
    classifier. `change`: what was added to the weights in that pass.
    """

    model: MeasuredModel
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

    def __init__(self, model: MeasuredModel, change: Errors) -> None:
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
        self.rows_at_a_time = max(1, MAX_LOGITS // len(self.weight))

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


def _check_finite(losses: Sequence[float], kl: Sequence[float]) -> None:
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


class Lazy(Mapping[str, Tensor]):
    """A change of many weights, each computed whenever it is looked up, and kept by nobody."""

    def __init__(self, names: Collection[str], compute: Callable[[str], Tensor]) -> None:
        self.names, self.compute = names, compute

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names


def scaled(by: float, errors: Errors) -> Errors:
    """Changes times a factor."""
    return Lazy(errors, lambda name: by * errors[name])


def segments_of(batch: Batch) -> Segments:
    return Segments(batch.lengths, batch.ids.device)


def _groups(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
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


def in_bf16(weight: Tensor) -> Tensor:
    """A weight as 16 bits store it."""
    return decode(encode(weight, parse("bf16")))


@contextmanager
def passing(model: MeasuredModel, change: Errors = NO_CHANGE) -> Iterator[None]:
    """Around every pass: embeddings give fp32, and products are the fastest of this machine."""
    with upcast_embeddings(model.module, change), FastProducts():
        yield


@contextmanager
def resident(model: MeasuredModel) -> Iterator[None]:
    """The whole model in fp32 at once, for what cannot go block after block."""
    with model.in_use(model.module, ""):
        parameters = [model.module.get_submodule(site.name).weight for site in model.sites]
        with trainable(parameters):  # type: ignore[arg-type]
            yield


@contextmanager
def shifted(model: MeasuredModel, by: Errors) -> Iterator[None]:
    """The model with tensors added to some weights, which are not touched themselves."""
    before, model.change = model.change, by
    try:
        yield
    finally:
        model.change = before
