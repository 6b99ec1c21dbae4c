"""Records the gradients of some sites, summed over sequences, and K-FAC's factors by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.curvature.full_precision import trainable
from lowbit.curvature.head_slopes import LARGE, Slopes
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.site_curvature import Factors, outer

Pair = tuple[Tensor, Tensor]
"""Gradients of the hidden states of a sequence: with its own labels, and with drawn ones."""


@dataclass
class Sums:
    """Running sums of one site, in the layout of its module."""

    gradient: Tensor
    fisher: Tensor
    half: Tensor | None

    @classmethod
    def of(cls, parameter: Tensor, halves: bool) -> Sums:
        like = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
        zeros = [torch.zeros(parameter.shape, dtype=like) for _ in range(3 if halves else 2)]
        return cls(zeros[0], zeros[1], zeros[2] if halves else None)

    def add(self, own: Tensor, drawn: Tensor, even: bool) -> None:
        self.gradient += own
        self.fisher.addcmul_(drawn, drawn)
        if even and self.half is not None:
            self.half += own


class Recorded:
    """Gradients of some sites and of their part's input, summed over sequences; K-FAC by hooks."""

    def __init__(self, model: MeasuredModel, sites: Sequence[Site]) -> None:
        self.model, self.sites = model, sites
        modules = [model.module.get_submodule(site.name) for site in sites]
        self.parameters: list[nn.Parameter] = [m.weight for m in modules]  # type: ignore[misc]
        halves = [site.role in BLOCK_ROLES for site in sites]
        self.sums = [Sums.of(p, h) for p, h in zip(self.parameters, halves, strict=True)]
        self.factors = {s.name: Factors(out_diagonal=s.shape[0] > LARGE) for s in sites}
        self.watch = _Watch(self.factors)

    def __enter__(self) -> Recorded:
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

    def finished(self, units: int) -> Iterator[tuple[Site, Sums, Factors]]:
        """The sums and mean factors of every site, freed as they are given away."""
        shared: dict[int, Tensor] = {}
        for site in reversed(self.sites):
            factors = mean_of(self.factors.pop(site.name), units, shared)
            yield site, self.sums.pop(), factors


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
        sums.inputs = add_factor(sums.inputs, outer(inputs))

    def _add_slope(self, name: str, slope: Tensor) -> None:
        if self.on:
            sums = self.factors[name]
            g = slope.detach().reshape(-1, slope.shape[-1])
            sums.outputs = add_factor(
                sums.outputs, g.square().sum(0) if sums.out_diagonal else outer(g)
            )


def mean_of(sums: Factors, units: int, shared: dict[int, Tensor] | None = None) -> Factors:
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


def add_factor(so_far: Tensor | None, more: Tensor) -> Tensor:
    if so_far is None:
        return more
    if so_far.shape == more.shape:
        return so_far.add_(more)
    longest = max(len(so_far), len(more))
    so_far, more = (F.pad(t, (0, longest - len(t))) for t in (so_far, more))
    return so_far + more
