"""Second derivatives of a model's loss along given vectors: the Hessian, and Gauss-Newton's part.

Gauss-Newton keeps only the curvature of the loss in the model's outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowbit.core.spec import Site
from lowbit.curvature.site_curvature import Matrices, as_site, logits_of, summed_loss, weights_of
from lowbit.tasks.base import Batch
from lowbit.train.losses import Kind


@dataclass(frozen=True)
class Product:
    """H v per token, and v'Hv of every batch, summed over its targets."""

    matrices: Matrices
    sums: list[float]


def products(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    vectors: Mapping[str, Tensor],
    kind: Kind = "language",
) -> Product:
    """H v for one vector over all sites: a backward pass through a backward pass."""
    weights = weights_of(model, sites)
    names, parameters = list(weights), list(weights.values())
    directions = [as_site(model, n, vectors[n]) for n in names]  # back to the module's layout
    total = [torch.zeros_like(p) for p in parameters]
    sums: list[float] = []
    for batch in batches:
        loss = summed_loss(model, batch, kind)
        slopes = torch.autograd.grad(loss, parameters, create_graph=True)
        along = sum((s * v).sum() for s, v in zip(slopes, directions, strict=True))
        curved = torch.autograd.grad(along, parameters, allow_unused=True)  # type: ignore[arg-type]
        total = [t if c is None else t + c for t, c in zip(total, curved, strict=True)]
        pairs = zip(curved, directions, strict=True)
        sums.append(sum(float((c * v).sum()) for c, v in pairs if c is not None))
    tokens = sum(sum(batch.labels) for batch in batches)
    matrices = {n: as_site(model, n, t) / tokens for n, t in zip(names, total, strict=True)}
    return Product(matrices, sums)


def gauss_newton(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    vectors: Mapping[str, Tensor],
    kind: Kind = "language",
) -> float:
    """1/2 v' J' H_out J v per token, by forward-mode passes; H_out is the softmax's Hessian."""
    weights = weights_of(model, sites)
    directions = {n: as_site(model, n, v) for n, v in vectors.items()}
    total, tokens = 0.0, 0
    for batch in batches:

        def forward(parameters: dict[str, Tensor], batch: Batch = batch) -> Tensor:
            with _swapped(model, parameters):
                return logits_of(model, batch, kind)

        primal = {n: p.detach() for n, p in weights.items()}
        logits, change = torch.func.jvp(forward, (primal,), (directions,))  # type: ignore[misc]
        probability = logits.softmax(-1)
        mean = (probability * change).sum(-1)
        variance = (probability * change.square()).sum(-1) - mean.square()
        total += 0.5 * float(variance.sum().detach())
        tokens += sum(batch.labels)
    return total / tokens


@contextmanager
def _swapped(model: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with other tensors in place of some weights, tied uses included."""
    before: list[tuple[nn.Module, nn.Parameter]] = []
    by_id = {id(model.get_submodule(n).weight): t for n, t in parameters.items()}
    for module in model.modules():
        own = module._parameters.get("weight")
        if own is not None and id(own) in by_id:
            before.append((module, own))
            del module._parameters["weight"]
            module.weight = by_id[id(own)]  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, own in before:
            del module.weight
            module._parameters["weight"] = own
