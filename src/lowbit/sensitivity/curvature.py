"""Curvature of a model's loss: the gradient, Fisher's diagonal and K-FAC's factors of every site.

One model in full precision, and calibration batches. Everything is per token, so 1/2 sum F e^2 is
in nats per token. Fisher and K-FAC use labels drawn from the model itself: with the data's labels,
the squared gradient is not a curvature (Kunstner et al. 2019). A sequence's gradient is summed
before it is squared, because its tokens are not independent.

A tied matrix is one site with two uses. As an embedding it is a linear layer with one-hot inputs,
so its input factor is diagonal; as a head, only the diagonal of its output factor is stored. The
cross term of the two uses is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowbit.core.errors import RunError
from lowbit.core.spec import Site
from lowbit.layers.matmul import FastProducts, linear
from lowbit.models.family import is_transposed
from lowbit.tasks.base import Batch
from lowbit.train.losses import IGNORED, Kind, class_logits, hidden_of

Matrices = dict[str, Tensor]
"""A matrix (out, in) for every site, by its name."""


@dataclass
class Factors:
    """K-FAC factors of a site: E[a a'] of its inputs and E[g g'] of its output gradients.

    `rows`: how often each row of an embedding was looked up, with `row_outputs` its E[g g'].
    `out_diagonal`: only the diagonal of E[g g'] is stored, as for a head.
    """

    inputs: Tensor | None = None
    outputs: Tensor | None = None
    rows: Tensor | None = None
    row_outputs: Tensor | None = None
    out_diagonal: bool = False
    rows_in: int = 0
    """Input rows of the layer: tokens, or fewer if it sees only some of them."""
    looked_up: int = 0


@dataclass
class Curvature:
    """Gradient, Fisher's diagonal and K-FAC factors of every site, averaged over `units`: tokens,
    or sentences where a sentence has one loss."""

    units: int
    gradient: Matrices
    fisher: Matrices
    factors: dict[str, Factors] = field(default_factory=dict)
    half: Matrices = field(default_factory=dict)
    """The gradient of every second sequence, starting with the first."""
    half_units: int = 0

    def other_half(self, name: str) -> Tensor:
        """The gradient of the sequences that are not in `half`."""
        rest = self.units - self.half_units
        total, half = self.units * self.gradient[name], self.half_units * self.half[name]
        return (total - half) / max(1, rest)


def weights_of(model: nn.Module, sites: Sequence[Site]) -> dict[str, nn.Parameter]:
    """The parameter of every site, in the model's own layout."""
    return {site.name: model.get_submodule(site.name).weight for site in sites}  # type: ignore


def as_site(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A tensor in the module's layout as (out, in), or the reverse: GPT-2's Conv1D is (in, out)."""
    transposed = is_transposed(model.get_submodule(name))
    return tensor.t() if transposed else tensor


def summed_loss(model: nn.Module, batch: Batch, kind: Kind = "language") -> Tensor:
    """The loss of a batch, summed over its targets; can be differentiated twice."""
    return F.cross_entropy(logits_of(model, batch, kind), target_of(batch), reduction="sum")


def logits_of(model: nn.Module, batch: Batch, kind: Kind = "language") -> Tensor:
    """(scored tokens, vocabulary) or (sentences, classes), at least fp32.

    Uses an attention kernel that can be differentiated twice.
    """
    with sdpa_kernel(SDPBackend.MATH), FastProducts():
        if kind == "classification":
            return class_logits(model, batch)
        head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        hidden = hidden_of(model, batch)[0]
        scored = batch.target != IGNORED
        logits: Tensor = head(hidden if bool(scored.all()) else hidden[scored])
        return logits if logits.dtype == torch.float64 else logits.float()


def target_of(batch: Batch) -> Tensor:
    """The targets of a batch that count."""
    return batch.target[batch.target != IGNORED]


def measure_curvature(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    kind: Kind = "language",
) -> Curvature:
    """One backward pass per sequence for the gradient, and one for Fisher and K-FAC together."""
    weights = weights_of(model, sites)
    names, parameters = list(weights), list(weights.values())
    gradient = {n: torch.zeros_like(p) for n, p in weights.items()}
    fisher = {n: torch.zeros_like(p) for n, p in weights.items()}
    half = {n: torch.zeros_like(p) for n, p in weights.items()}
    source, units, half_units = torch.Generator().manual_seed(seed), 0, 0
    with _watched(model, sites) as watch:
        for i, batch in enumerate(batches):
            logits = logits_of(model, batch, kind)
            if not bool(torch.isfinite(logits).all()):
                raise RunError("the model's outputs are not finite on the calibration text")
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=source)[:, 0]
            own = F.cross_entropy(logits, target_of(batch), reduction="sum")
            sampled = F.cross_entropy(logits, drawn, reduction="sum")
            with _paused(watch):
                slopes = torch.autograd.grad(own, parameters, retain_graph=True)
            for name, slope in zip(names, slopes, strict=True):
                gradient[name] += slope
                if i % 2 == 0:
                    half[name] += slope
            half_units += 0 if i % 2 else len(logits)
            for name, slope in zip(names, torch.autograd.grad(sampled, parameters), strict=True):
                fisher[name].addcmul_(slope, slope)
            units += len(logits)
            on_progress(i + 1, len(batches))
    return Curvature(
        units,
        {n: as_site(model, n, g) / units for n, g in gradient.items()},
        {n: as_site(model, n, f) / units for n, f in fisher.items()},
        {n: _mean(f, units) for n, f in watch.factors.items()},
        {n: as_site(model, n, g) / half_units for n, g in half.items()},
        half_units,
    )


def _mean(sums: Factors, units: int) -> Factors:
    """E[a a'] over the rows that the site was given, E[g g'] over what is scored.

    Where a sentence of many tokens has one loss, its Fisher is the sum over its tokens.
    """

    def over(tensor: Tensor | None, count: int) -> Tensor | None:
        return None if tensor is None else tensor / count

    return Factors(
        over(sums.inputs, sums.rows_in), over(sums.outputs, units),
        over(sums.rows, sums.looked_up), over(sums.row_outputs, units),
        sums.out_diagonal, sums.rows_in, sums.looked_up,
    )  # fmt: skip


class _Watch:
    """Sums up factors in the backward passes during which it is on."""

    def __init__(self) -> None:
        self.on = True
        self.factors: dict[str, Factors] = {}


@contextmanager
def _paused(watch: _Watch) -> Iterator[None]:
    watch.on = False
    try:
        yield
    finally:
        watch.on = True


@contextmanager
def _watched(model: nn.Module, sites: Sequence[Site]) -> Iterator[_Watch]:
    """Hooks on every use of every site."""
    watch = _Watch()
    with ExitStack() as stack:
        for site in sites:
            watch.factors[site.name] = Factors(out_diagonal=site.shape[0] > _LARGE)
            for name in (site.name, *site.aliases):
                module = model.get_submodule(name)
                hook = _embedding_hook if isinstance(module, nn.Embedding) else _linear_hook
                handle = module.register_forward_hook(
                    lambda m, x, y, f=watch.factors[site.name], h=hook: h(watch, f, x[0], y)
                )
                stack.callback(handle.remove)
        yield watch


_LARGE = 4096
"""With more outputs than this, only the diagonal of E[g g'] is stored."""


def _linear_hook(watch: _Watch, sums: Factors, x: Tensor, y: Tensor) -> None:
    inputs = x.detach().reshape(-1, x.shape[-1])

    def backward(slope: Tensor) -> None:
        if not watch.on:
            return
        g = slope.detach().reshape(-1, slope.shape[-1])
        sums.rows_in += len(inputs)
        sums.inputs = _add(sums.inputs, _outer(inputs))
        sums.outputs = _add(sums.outputs, g.square().sum(0) if sums.out_diagonal else _outer(g))

    y.register_hook(backward)


def _embedding_hook(watch: _Watch, sums: Factors, ids: Tensor, y: Tensor) -> None:
    def backward(slope: Tensor) -> None:
        if not watch.on:
            return
        g = slope.detach().reshape(-1, slope.shape[-1])
        sums.looked_up += ids.numel()
        count = torch.bincount(ids.reshape(-1), minlength=int(ids.max()) + 1).float()
        sums.rows = _add(sums.rows, count)
        sums.row_outputs = _add(sums.row_outputs, _outer(g))

    y.register_hook(backward)


def _outer(rows: Tensor) -> Tensor:
    """The sum of every row's outer product with itself."""
    return linear(rows.t(), rows.t())


def _add(so_far: Tensor | None, more: Tensor) -> Tensor:
    if so_far is None:
        return more
    if so_far.shape == more.shape:
        return so_far.add_(more)
    longest = max(len(so_far), len(more))
    so_far, more = (F.pad(t, (0, longest - len(t))) for t in (so_far, more))
    return so_far + more


# --- costs of an error ----------------------------------------------------------------------------


def fisher_cost(fisher: Tensor, error: Tensor) -> float:
    """1/2 sum F_ii e_i^2."""
    return 0.5 * float((fisher * error.square()).sum())


def kfac_cost(factors: Factors, error: Tensor) -> float:
    """1/2 sum tr(e' G e A), over both uses of a tied matrix."""
    total = 0.0
    if factors.inputs is not None and factors.outputs is not None:
        through = error @ factors.inputs
        if factors.out_diagonal:
            total += float((factors.outputs * (through * error).sum(1)).sum())
        else:
            total += float(((factors.outputs @ error) * through).sum())
    if factors.rows is not None and factors.row_outputs is not None:
        rows = error[: len(factors.rows)]
        total += float((factors.rows * ((rows @ factors.row_outputs) * rows).sum(1)).sum())
    return 0.5 * total
