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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.core.stats import clustered_error
from lowbit.curvature.full_precision import hold_in_16_bits, in_full_precision, trainable
from lowbit.curvature.model_outputs import Outputs, check_finite
from lowbit.curvature.passes import Pass, groups_of, passing, segments_of
from lowbit.curvature.weight_changes import Errors
from lowbit.curvature.weight_errors import WeightErrors
from lowbit.models.blocks import Blocks
from lowbit.models.family import family_of
from lowbit.models.packed_attention import Segments
from lowbit.models.weights import Weights
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import join_batches
from lowbit.train.losses import IGNORED, Kind

OnProgress = Callable[[str, int, int], None]
"""Called with the phase, how many steps are done, and how many there are."""
HESSIAN_WORK, GAUSS_NEWTON_WORK = 6.0, 3.0
"""The work of a Hessian product and of a Gauss-Newton product, in forward passes."""


@dataclass
class MeasuredModel(WeightErrors):
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

    # --- weights in use ---------------------------------------------------------------------------

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
        groups = list(groups_of(batches))
        joined = [join_batches(group) for group in groups]
        with passing(self.module, self.change):
            pairs = [self.blocks.first_inputs(batch.ids, segments_of(batch)) for batch in joined]
        return Pass(batches, groups, joined, [h for h, _ in pairs], [a for _, a in pairs])

    @torch.no_grad()
    def advanced(self, passes: Sequence[Pass], depth: int) -> list[Pass]:
        """Some passes after this block, at the current weights."""
        block, name = self.blocks.modules[depth], self.blocks.name(depth)
        after = []
        with passing(self.module), self.in_use(block, name):
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
        with passing(self.module):
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
        check_finite(losses, kl)
        return losses, kl

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
