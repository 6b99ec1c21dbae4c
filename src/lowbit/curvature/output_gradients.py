"""What the loss's gradients say of every block matrix's outputs, for rounding.

An error e in a row of a matrix changes its output on input x by e'x, and the loss by about
1/2 g^2 (e'x)^2, with g the loss's gradient there. So tokens count by their g^2: the error costs
1/2 e' M e with M the mean of g^2 x x'. With |g|^2, summed over the rows, one moment serves all
rows. E[g g'] says besides which errors of two rows add up; with M it is K-FAC's curvature.

Labels are drawn from the model, as for Fisher's information: what counts is how far its predictions
move. This is a part of `walk_curvature`, at a third of its time: no gradient of a weight is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lowbit.core.spec import Site
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.passes import passing
from lowbit.curvature.site_curvature import outer
from lowbit.curvature.walk_curvature import Walk


@dataclass(frozen=True)
class OutputGradients:
    """The gradients g of one matrix's outputs.

    `weights`: |g|^2 of every token, in the order of the batches; their mean is one. `factors`: the
    mean of g g' of consecutive rows, in units of its mean diagonal; empty unless asked for.
    """

    weights: Tensor
    factors: tuple[Tensor, ...] = ()


def output_gradients(
    model: MeasuredModel,
    seed: int,
    rows: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Site, OutputGradients]]:
    """The gradients of every block matrix, from the last block to the first.

    A matrix that the loss does not depend on is left out. `rows`: factors of up to so many rows of
    a matrix; 0: none.
    """
    if model.kind == "language":
        # The walk would record the gradients of an embedding and a head too.
        model = replace(model, sites=tuple(s for s in model.sites if s.depth is not None))
    walk = Walk(model, seed)
    total = 2 * len(model.blocks)
    on_progress(0, total)
    with passing(model.module):
        walk.forward(lambda depth: on_progress(depth, total))
        for _ in walk.tail():
            pass
        walk.slopes = [(drawn, drawn) for _, drawn in walk.slopes]
        for depth in reversed(range(len(model.blocks))):
            on_progress(total - 1 - depth, total)
            yield from _of_block(walk, depth, rows)
    on_progress(total, total)


def parts_of(size: int, most: int) -> list[int]:
    """The numbers of rows, as equal as can be, that make up a matrix in parts of at most `most`."""
    count = -(-size // most)
    return [size * (i + 1) // count - size * i // count for i in range(count)]


@dataclass
class _Sums:
    """Running sums of one matrix."""

    sizes: list[int]
    squares: list[Tensor] = field(default_factory=list)
    outers: list[Tensor] = field(default_factory=list)

    def add(self, slope: Tensor) -> None:
        rows = slope.detach().reshape(-1, slope.shape[-1])
        self.squares.append(rows.square().sum(1))
        more = [outer(part) for part in rows.split(self.sizes, 1)] if self.sizes else []
        pairs = zip(self.outers, more, strict=True)
        self.outers = [a.add_(b) for a, b in pairs] if self.outers else more

    def finished(self) -> OutputGradients | None:
        weights = torch.cat(self.squares) if self.squares else torch.zeros(1)
        mean = float(weights.mean())
        if mean == 0:
            return None
        # The sum of all squares is that of all diagonals.
        unit = mean * len(weights) / max(1, sum(self.sizes))
        return OutputGradients(weights / mean, tuple(each / unit for each in self.outers))


def _of_block(walk: Walk, depth: int, rows: int) -> Iterator[tuple[Site, OutputGradients]]:
    """One block's gradients; those of its outputs become those of its inputs."""
    model, blocks = walk.model, walk.model.blocks
    inside = [site for site in model.sites if site.depth == depth]
    sums = {s.name: _Sums(parts_of(s.shape[0], rows) if rows else []) for s in inside}
    states = walk.states_before(depth)
    with (
        model.in_use(blocks.modules[depth], blocks.name(depth)),
        _recording(model.module, sums),
        torch.enable_grad(),
    ):
        for i, state in enumerate(states):
            given = state.detach().requires_grad_(True)
            output = blocks.run(depth, given, walk.arguments[i])
            slope = walk.slopes[i][1]
            slope.copy_(torch.autograd.grad(output, given, slope)[0])
    for site in inside:
        finished = sums.pop(site.name).finished()
        if finished is not None:
            yield site, finished


@contextmanager
def _recording(module: nn.Module, sums: dict[str, _Sums]) -> Iterator[None]:
    """Add the gradients of these modules' outputs in every backward pass."""

    def hook(of: _Sums) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def forward(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            output.register_hook(of.add)

        return forward

    pairs = [(module.get_submodule(name), of) for name, of in sums.items()]
    handles = [part.register_forward_hook(hook(of)) for part, of in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
