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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.models.blocks import Arguments
from lowbit.models.family import is_transposed
from lowbit.sensitivity.curvature import Factors, SiteCurvature, outer, target_of
from lowbit.sensitivity.full_precision import trainable
from lowbit.sensitivity.head_slopes import LARGE, HeadSlopes, Slopes
from lowbit.sensitivity.measured_model import MeasuredModel, passing, segments_of
from lowbit.train.losses import IGNORED

Pair = tuple[Tensor, Tensor]
"""Gradients of the hidden states of a sequence: with its own labels, and with drawn ones."""


def walk_curvature(
    model: MeasuredModel,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Site, SiteCurvature]]:
    """The curvature of each site: those after the blocks, the blocks backwards, embeddings."""
    walk = _Walk(model, seed)
    total = 2 * len(model.blocks) + 1
    on_progress(0, total)
    # Plain products: their backward pass is twice as fast as that of torch's kernel for a CPU.
    with passing(model), sdpa_kernel(SDPBackend.MATH):
        walk.forward(lambda depth: on_progress(depth, total))
        yield from walk.tail()
        for depth in reversed(range(len(model.blocks))):
            on_progress(total - 1 - depth, total)
            yield from walk.block(depth)
        yield from walk.embeddings()
    on_progress(total, total)


@dataclass
class _Sums:
    """Running sums of one site, in the layout of its module."""

    gradient: Tensor
    fisher: Tensor
    half: Tensor | None

    @classmethod
    def of(cls, parameter: Tensor, halves: bool) -> _Sums:
        like = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
        zeros = [torch.zeros(parameter.shape, dtype=like) for _ in range(3 if halves else 2)]
        return cls(zeros[0], zeros[1], zeros[2] if halves else None)

    def add(self, own: Tensor, drawn: Tensor, even: bool) -> None:
        self.gradient += own
        self.fisher.addcmul_(drawn, drawn)
        if even and self.half is not None:
            self.half += own


@dataclass
class _Stretch:
    """The hidden states before each of a few neighbouring blocks, for every sequence."""

    first: int
    states: list[list[Tensor]]


@dataclass
class _Walk:
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
        with self.model.in_use(blocks.modules[depth], blocks.name(depth)):
            pairs = zip(states, self.arguments, strict=True)
            return [blocks.run(depth, state, arguments) for state, arguments in pairs]

    @torch.no_grad()
    def _states_before(self, depth: int) -> list[Tensor]:
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
            give = _ClassSlopes(self.model, source)
        with self.model.tail_in_use(), _Recorded(self.model, self.model.tail) as recorded:
            for i, state in enumerate(self.last):
                self.slopes.append(recorded.step(i, state, partial(give, i)))
            del self.last
        yield from recorded.finished(self)
        if self.head is not None and self.head.sums is not None and not self._head_is_tied:
            yield self._of_head(self.head)

    def block(self, depth: int) -> Iterator[tuple[Site, SiteCurvature]]:
        """One block, all sequences."""
        blocks = self.model.blocks
        states = self._states_before(depth)
        inside = [site for site in self.model.sites if site.depth == depth]
        in_use = self.model.in_use(blocks.modules[depth], blocks.name(depth))
        with in_use, _Recorded(self.model, inside) as recorded:
            for i, state in enumerate(states):
                run = partial(self._through_block, depth, i)
                self.slopes[i] = recorded.step(i, state, run)
        yield from recorded.finished(self)

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
                made = _Sums.of(weight, False)
                sums[name] = (made.gradient, made.fisher)
                factors[name] = Factors(out_diagonal=site.shape[0] > LARGE)
        for i, batch in enumerate(self.model.batches):
            with _looked_up(self.model, wanted) as seen:
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
                _add_rows(sums[name], factors[name], ids, g, d, tied)
        for name, site in wanted.items():
            gradient, fisher = sums[name]
            mean = _mean(factors[name], self.units)
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
        factors = _mean(head.factors, self.units)
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

    def of_site(self, site: Site, sums: _Sums, factors: Factors) -> tuple[Site, SiteCurvature]:
        transposed = is_transposed(self.model.module.get_submodule(site.name))
        return site, self._curvature(sums.gradient, sums.fisher, sums.half, factors, transposed)


class _Recorded:
    """Gradients of some sites and of their part's input, summed over sequences; K-FAC by hooks."""

    def __init__(self, model: MeasuredModel, sites: Sequence[Site]) -> None:
        self.model, self.sites = model, sites
        modules = [model.module.get_submodule(site.name) for site in sites]
        self.parameters: list[nn.Parameter] = [m.weight for m in modules]  # type: ignore[misc]
        halves = [site.role in BLOCK_ROLES for site in sites]
        self.sums = [_Sums.of(p, h) for p, h in zip(self.parameters, halves, strict=True)]
        self.factors = {s.name: Factors(out_diagonal=s.shape[0] > LARGE) for s in sites}
        self.watch = _Watch(self.factors)

    def __enter__(self) -> _Recorded:
        self.stack = ExitStack()
        self.stack.enter_context(torch.enable_grad())
        self.stack.enter_context(trainable(self.parameters))
        for site in self.sites:
            module = self.model.module.get_submodule(site.name)
            handle = module.register_forward_hook(self.watch.hook(site.name))
            self.stack.callback(handle.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def step(self, number: int, state: Tensor, run: Callable[[Tensor], Slopes]) -> Pair:
        """Add one sequence; gives the gradients of its input."""
        x = state.detach().requires_grad_(True)
        there = run(x)
        self.watch.on = False
        own = torch.autograd.grad(there.output, [x, *self.parameters], there.own, retain_graph=True)
        self.watch.on = True
        drawn = torch.autograd.grad(there.output, [x, *self.parameters], there.drawn)
        self.watch.on = False
        self.watch.last = None  # it would keep the graph alive, whose hooks keep this alive
        for sums, g, d in zip(self.sums, own[1:], drawn[1:], strict=True):
            sums.add(g, d, number % 2 == 0)
        return own[0], drawn[0]

    def finished(self, walk: _Walk) -> Iterator[tuple[Site, SiteCurvature]]:
        """The means of every site. Sums are freed as they are given away."""
        shared: dict[int, Tensor] = {}
        for site in reversed(self.sites):
            factors = _mean(self.factors.pop(site.name), walk.units, shared)
            yield walk.of_site(site, self.sums.pop(), factors)


class _Watch:
    """Sums up K-FAC's factors. Matrices that are given the same input share its factor."""

    def __init__(self, factors: dict[str, Factors]) -> None:
        self.factors = factors
        self.on = False
        self.last: tuple[Tensor, str] | None = None

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def forward(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return
            self._add_inputs(name, given[0])
            output.register_hook(lambda slope: self._add_slope(name, slope))

        return forward

    def _add_inputs(self, name: str, given: Tensor) -> None:
        sums = self.factors[name]
        inputs = given.detach().reshape(-1, given.shape[-1])
        sums.rows_in += len(inputs)
        if self.last is not None and self.last[0] is given:
            sums.inputs = self.factors[self.last[1]].inputs
            return
        self.last = (given, name)
        sums.inputs = _add(sums.inputs, outer(inputs))

    def _add_slope(self, name: str, slope: Tensor) -> None:
        if self.on:
            sums = self.factors[name]
            g = slope.detach().reshape(-1, slope.shape[-1])
            sums.outputs = _add(sums.outputs, g.square().sum(0) if sums.out_diagonal else outer(g))


class _ClassSlopes:
    """A classifier's loss, differentiated by its logits."""

    def __init__(self, model: MeasuredModel, source: torch.Generator) -> None:
        self.model, self.source = model, source

    def __call__(self, i: int, state: Tensor) -> Slopes:
        batch = self.model.batches[i]
        segments = segments_of(batch)
        hidden = self.model.blocks.after(batch.ids, segments, state)
        logits = self.model.classify(hidden, segments)
        probabilities = logits.detach().softmax(-1)
        drawn = torch.multinomial(probabilities, 1, generator=self.source)[:, 0]
        own, other = (
            probabilities - F.one_hot(labels, logits.shape[-1]) for labels in (batch.target, drawn)
        )
        return Slopes(logits, own, other)


@contextmanager
def _looked_up(
    model: MeasuredModel, sites: dict[str, Site]
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """The ids and outputs of embeddings, as leaves that gradients are taken of."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for name in sites:

            def hook(
                module: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name
            ) -> Tensor:
                leaf = output.detach().requires_grad_(True)
                seen[name] = (given[0], leaf)
                return leaf

            module = model.module.get_submodule(name)
            stack.callback(module.register_forward_hook(hook).remove)
        yield seen


def _add_rows(
    sums: Pair, factors: Factors, ids: Tensor, own: Tensor, drawn: Tensor, tied: Tensor | None
) -> None:
    """Add one sequence's lookups. `tied`: the head's own gradient of the rows, with drawn labels.

    The square of the sequence's gradient of a tied row is (head + lookup)^2; head^2 is in already.
    """
    gradient, fisher = sums
    gradient.index_add_(0, ids, own)
    rows, place = ids.unique(return_inverse=True)
    lookups = drawn.new_zeros(len(rows), drawn.shape[1]).index_add_(0, place, drawn)
    square = lookups.square()
    if tied is not None:
        square += 2 * tied * lookups
    fisher.index_add_(0, rows, square)
    factors.looked_up += ids.numel()
    count = torch.bincount(ids, minlength=int(ids.max()) + 1).to(drawn.dtype)
    factors.rows = _add(factors.rows, count)
    factors.row_outputs = _add(factors.row_outputs, outer(drawn))


def _mean(sums: Factors, units: int, shared: dict[int, Tensor] | None = None) -> Factors:
    """E[a a'] over the rows that the site was given, E[g g'] over what is scored.

    Where a sentence of many tokens has one loss, its Fisher is the sum over its tokens. `shared`:
    means of input factors already taken, so that matrices with the same input have the same one.
    """

    def over(tensor: Tensor | None, count: int) -> Tensor | None:
        return None if tensor is None else tensor / count

    inputs = None if sums.inputs is None or shared is None else shared.get(id(sums.inputs))
    if inputs is None:
        inputs = over(sums.inputs, sums.rows_in)
    if shared is not None and sums.inputs is not None and inputs is not None:
        shared[id(sums.inputs)] = inputs
    return Factors(
        inputs, over(sums.outputs, units),
        over(sums.rows, sums.looked_up), over(sums.row_outputs, units),
        sums.out_diagonal, sums.rows_in, sums.looked_up,
    )  # fmt: skip


def _add(so_far: Tensor | None, more: Tensor) -> Tensor:
    if so_far is None:
        return more
    if so_far.shape == more.shape:
        return so_far.add_(more)
    longest = max(len(so_far), len(more))
    so_far, more = (F.pad(t, (0, longest - len(t))) for t in (so_far, more))
    return so_far + more
