"""Measures the curvature of every site, from the last block to the first.

One forward pass keeps the hidden states at every few blocks. Then each block is run again on the
stretch's own states, with gradients, so that the curvature of one block exists at a time, and the
activations of one sequence in one block. Every sequence has two backward passes: with its own
labels for the gradient, and with labels drawn from the model for Fisher and K-FAC.

A language model's head, usually its largest matrix, is done by slices of the vocabulary. A tied
matrix is finished last, at the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from lowbit.core.spec import Site
from lowbit.curvature.embedding_slopes import add_rows, looked_up
from lowbit.curvature.head_slopes import LARGE, ClassSlopes, HeadSlopes, Slopes
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.passes import passing, segments_of
from lowbit.curvature.record_gradients import Pair, Recorded, Sums, mean_of
from lowbit.curvature.site_curvature import Factors, SiteCurvature, target_of
from lowbit.models.blocks import Arguments
from lowbit.models.family import is_transposed
from lowbit.train.losses import IGNORED


def walk_curvature(
    model: MeasuredModel,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Site, SiteCurvature]]:
    """The curvature of each site: those after the blocks, the blocks backwards, embeddings."""
    walk = Walk(model, seed)
    total = 2 * len(model.blocks) + 1
    on_progress(0, total)
    with passing(model.module):
        walk.forward(lambda depth: on_progress(depth, total))
        yield from walk.tail()
        for depth in reversed(range(len(model.blocks))):
            on_progress(total - 1 - depth, total)
            yield from walk.block(depth)
        yield from walk.embeddings()
    on_progress(total, total)


@dataclass
class _Stretch:
    """The hidden states before each of a few neighbouring blocks, for every sequence."""

    first: int
    states: list[list[Tensor]]


def _like_all(states: Sequence[Tensor]) -> list[Tensor]:
    """Parts of one new tensor, each of one state's shape."""
    lengths = [state.shape[-2] for state in states]
    return list(states[0].new_empty(1, sum(lengths), states[0].shape[-1]).split(lengths, 1))


@dataclass
class Walk:
    model: MeasuredModel
    seed: int
    kept: dict[int, list[Tensor]] = field(default_factory=dict)
    stretch: _Stretch | None = None
    slopes: list[Pair] = field(default_factory=list)
    head: HeadSlopes | None = None

    def __post_init__(self) -> None:
        model = self.model
        self.units = sum(model.counts)
        self.even_units = sum(model.counts[::2])
        self.every = max(1, math.isqrt(len(model.blocks)))
        self.arguments: list[Arguments] = []

    # --- forward ----------------------------------------------------------------------------------

    @torch.no_grad()
    def forward(self, on_depth: Callable[[int], None]) -> None:
        """Run all blocks, and keep the states before every few of them."""
        pairs = [
            self.model.blocks.first_inputs(batch.ids, segments_of(batch))
            for batch in self.model.batches
        ]
        states, self.arguments = [hidden for hidden, _ in pairs], [a for _, a in pairs]
        del pairs
        for depth in range(len(self.model.blocks)):
            on_depth(depth)
            if depth % self.every == 0:
                self.kept[depth] = list(states)
            states = self._run(depth, states)
        self.last = states

    def _run(self, depth: int, states: Sequence[Tensor]) -> list[Tensor]:
        blocks = self.model.blocks
        # In one tensor: many would leave holes in memory once what was between them is freed.
        outputs = _like_all(states)
        with self.model.in_use(blocks.modules[depth], blocks.name(depth)):
            for state, arguments, output in zip(states, self.arguments, outputs, strict=True):
                output.copy_(blocks.run(depth, state, arguments))
        return outputs

    @torch.no_grad()
    def states_before(self, depth: int) -> list[Tensor]:
        """The states before a block; runs its stretch again if this is its last block."""
        first = depth - depth % self.every
        if self.stretch is None or self.stretch.first != first:
            states = [self.kept.pop(first)]
            for earlier in range(first, depth):
                states.append(self._run(earlier, states[-1]))
            self.stretch = _Stretch(first, states)
        return self.stretch.states.pop()

    # --- backward ---------------------------------------------------------------------------------

    def tail(self) -> Iterator[tuple[Site, SiteCurvature]]:
        """Everything after the blocks: final norm, head or classifier."""
        source = torch.Generator().manual_seed(self.seed)
        if self.model.kind == "language":
            with torch.no_grad():
                rows = [self._last_rows(i, state) for i, state in enumerate(self.last)]
            self.head = HeadSlopes(self.model, source, rows, self._tied_rows())
            del rows
            give = self._through_head
        else:
            give = ClassSlopes(self.model, source)
        with self.model.tail_in_use(), Recorded(self.model, self.model.tail) as recorded:
            for i, state in enumerate(self.last):
                self.slopes.append(recorded.step(i, state, partial(give, i)))
            del self.last
        yield from self._finished(recorded)
        if self.head is not None and self.head.sums is not None and not self._head_is_tied:
            yield self._of_head(self.head)

    def block(self, depth: int) -> Iterator[tuple[Site, SiteCurvature]]:
        """One block, all sequences."""
        blocks = self.model.blocks
        states = self.states_before(depth)
        inside = [site for site in self.model.sites if site.depth == depth]
        in_use = self.model.in_use(blocks.modules[depth], blocks.name(depth))
        with in_use, Recorded(self.model, inside) as recorded:
            for i, state in enumerate(states):
                run = partial(self._through_block, depth, i)
                self.slopes[i] = recorded.step(i, state, run)
        yield from self._finished(recorded)

    def _through_block(self, depth: int, i: int, state: Tensor) -> Slopes:
        output = self.model.blocks.run(depth, state, self.arguments[i])
        return Slopes(output, *self.slopes[i])

    def _last_rows(self, i: int, state: Tensor) -> Tensor:
        """The last hidden states of a sequence's scored tokens."""
        batch = self.model.batches[i]
        hidden = self.model.blocks.after(batch.ids, segments_of(batch), state)
        scored = batch.target != IGNORED
        return hidden if bool(scored.all()) else hidden[scored]

    def _through_head(self, i: int, state: Tensor) -> Slopes:
        assert self.head is not None
        return self.head.add(i, self._last_rows(i, state), target_of(self.model.batches[i]))

    def embeddings(self) -> Iterator[tuple[Site, SiteCurvature]]:
        """The embeddings, from the gradients of the first block's inputs."""
        wanted = {
            site.name: site
            for site in self.model.sites
            if isinstance(self.model.module.get_submodule(site.name), nn.Embedding)
        }
        if not wanted:
            return
        sums, factors = {}, {}
        for name, site in wanted.items():
            if self._head_is_tied and self.head is not None and site == self.model.head_site:
                assert self.head.sums is not None
                sums[name], factors[name] = self.head.sums, self.head.factors
            else:
                weight: Tensor = self.model.module.get_submodule(name).weight  # type: ignore
                made = Sums.of(weight, False)
                sums[name] = (made.gradient, made.fisher)
                factors[name] = Factors(out_diagonal=site.shape[0] > LARGE)
        for i, batch in enumerate(self.model.batches):
            with looked_up(self.model, wanted) as seen:
                hidden, _ = self.model.blocks.first_inputs(batch.ids, segments_of(batch))
                outputs = [output for _, output in seen.values()]
                own, drawn = self.slopes[i]
                of_own = torch.autograd.grad(hidden, outputs, own, retain_graph=True)
                of_drawn = torch.autograd.grad(hidden, outputs, drawn)
            for name, g, d in zip(seen, of_own, of_drawn, strict=True):
                ids = seen[name][0].reshape(-1)
                g, d = (slope.reshape(len(ids), -1) for slope in (g, d))
                tied = None
                if self.head is not None and wanted[name] == self.model.head_site:
                    tied = self.head.rows_of(i)
                add_rows(sums[name], factors[name], ids, g, d, tied)
        for name, site in wanted.items():
            gradient, fisher = sums[name]
            mean = mean_of(factors[name], self.units)
            yield site, self._curvature(gradient, fisher, None, mean, False)

    @property
    def _head_is_tied(self) -> bool:
        site = self.model.head_site
        return site is not None and isinstance(
            self.model.module.get_submodule(site.name), nn.Embedding
        )

    def _tied_rows(self) -> list[Tensor] | None:
        """The rows of a tied matrix that each sequence looks up; their gradients have two parts."""
        return [batch.ids.unique() for batch in self.model.batches] if self._head_is_tied else None

    # --- results ----------------------------------------------------------------------------------

    def _of_head(self, head: HeadSlopes) -> tuple[Site, SiteCurvature]:
        site = self.model.head_site
        assert site is not None
        assert head.sums is not None
        factors = mean_of(head.factors, self.units)
        return site, self._curvature(*head.sums, None, factors, False)

    def _curvature(
        self,
        gradient: Tensor,
        fisher: Tensor,
        half: Tensor | None,
        factors: Factors,
        transposed: bool,
    ) -> SiteCurvature:
        """Means from sums, as (out, in). The sums are divided in place."""

        def turned(tensor: Tensor) -> Tensor:
            return tensor.t() if transposed else tensor

        halves = None
        if half is not None:
            other = (gradient - half) / max(1, self.units - self.even_units)
            halves = (turned(half.div_(self.even_units)), turned(other))
        return SiteCurvature(
            turned(gradient.div_(self.units)),
            turned(fisher.div_(self.units)),
            factors,
            halves,
        )

    def _finished(self, recorded: Recorded) -> Iterator[tuple[Site, SiteCurvature]]:
        for site, sums, factors in recorded.finished(self.units):
            yield self.of_site(site, sums, factors)

    def of_site(self, site: Site, sums: Sums, factors: Factors) -> tuple[Site, SiteCurvature]:
        transposed = is_transposed(self.model.module.get_submodule(site.name))
        return site, self._curvature(sums.gradient, sums.fisher, sums.half, factors, transposed)
