"""The gradients of embeddings, from those of their outputs: only looked-up rows have any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lowbit.core.spec import Site
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.record_gradients import Pair, add_factor
from lowbit.curvature.site_curvature import Factors, outer


@contextmanager
def looked_up(
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


def add_rows(
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
    factors.rows = add_factor(factors.rows, count)
    factors.row_outputs = add_factor(factors.row_outputs, outer(drawn))
