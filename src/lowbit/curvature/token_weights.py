"""How much the loss depends on each token's output of each matrix, for rounding.

An error e in a row of a matrix changes its output on input x by e'x, and the loss by about
1/2 g^2 (e'x)^2, with g the loss's gradient there. So tokens count by their g^2: the error costs
1/2 e' M e with M the mean of g^2 x x'. With |g|^2, summed over the rows, one moment serves all
rows. Labels are drawn from the model, as for Fisher's information: what counts is how far its
predictions move.

This is a part of `walk_curvature`, at a third of its time: no gradient of a weight is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.passes import passing
from lowbit.curvature.walk_curvature import Walk

TokenWeights = dict[str, Tensor]
"""For every block matrix by its name, |g|^2 of every token; their mean is one."""


def token_weights(
    model: MeasuredModel,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TokenWeights:
    """The weights of all tokens, in the order of the model's batches, for every block matrix."""
    if model.kind == "language":
        # The walk would record the gradients of an embedding and a head too.
        model = replace(model, sites=tuple(s for s in model.sites if s.depth is not None))
    walk, weights = Walk(model, seed), TokenWeights()
    total = 2 * len(model.blocks)
    on_progress(0, total)
    with passing(model.module):
        walk.forward(lambda depth: on_progress(depth, total))
        for _ in walk.tail():
            pass
        for depth in reversed(range(len(model.blocks))):
            on_progress(total - 1 - depth, total)
            weights |= _of_block(walk, depth)
    on_progress(total, total)
    return weights


def _of_block(walk: Walk, depth: int) -> TokenWeights:
    """One block's weights; the gradients of its outputs become those of its inputs."""
    model, blocks = walk.model, walk.model.blocks
    squares: dict[str, list[Tensor]] = {s.name: [] for s in model.sites if s.depth == depth}
    states = walk.states_before(depth)
    with (
        model.in_use(blocks.modules[depth], blocks.name(depth)),
        _recording(model.module, squares),
        torch.enable_grad(),
    ):
        for i, state in enumerate(states):
            given = state.detach().requires_grad_(True)
            output = blocks.run(depth, given, walk.arguments[i])
            slope = torch.autograd.grad(output, given, walk.slopes[i][1])[0]
            walk.slopes[i] = slope, slope
    joined = {name: torch.cat(parts) for name, parts in squares.items() if parts}
    return {name: w / w.mean() for name, w in joined.items() if float(w.sum()) > 0}


@contextmanager
def _recording(module: nn.Module, squares: dict[str, list[Tensor]]) -> Iterator[None]:
    """Add |g|^2 of every token to the list of each of these modules, in every backward pass."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(slope: Tensor) -> None:
            squares[name].append(slope.reshape(-1, slope.shape[-1]).square().sum(1))

        def forward(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            output.register_hook(add)

        return forward

    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in squares]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
