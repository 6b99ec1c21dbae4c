"""What the loss does when weights move: gradients, Fisher, K-FAC, Hessian products of a model.

One model in full precision, calibration batches, and the sites to look at. Everything is per
token, so that 1/2 sum F e^2 is in nats a token. Labels of Fisher and K-FAC are drawn from the model
itself: with the data's labels the square of a gradient is no curvature (Kunstner et al. 2019). A
sequence's gradient is summed before it is squared, since its tokens are not independent.

A tied matrix is one site with two uses. As an embedding it is a linear layer of one-hot inputs,
whose input factor is diagonal; as a head its output factor is kept diagonal; their cross term is
left out.
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
from lowbit.layers.matmul import Quick, linear
from lowbit.tasks.base import Batch
from lowbit.train.losses import IGNORED, Kind, class_logits, hidden_of

Matrices = dict[str, Tensor]


@dataclass
class Factors:
    """K-FAC factors of a site, sums over tokens: E[a a'] and E[g g'] with their counts.

    `rows`: as an embedding, how often each row was looked up, and E[g g'] of what it gave.
    `out_diagonal`: as a head, only the diagonal of E[g g'] is kept.
    """

    inputs: Tensor | None = None
    outputs: Tensor | None = None
    rows: Tensor | None = None
    row_outputs: Tensor | None = None
    out_diagonal: bool = False
    rows_in: int = 0
    """Rows that the layer was given: tokens, or fewer where it sees only some of them."""
    looked_up: int = 0


@dataclass
class Curvature:
    """Of every site: gradient, Fisher's diagonal, K-FAC's factors; a token, or a sentence where
    sentences have one loss each. `units`: how many of these."""

    units: int
    gradient: Matrices
    fisher: Matrices
    factors: dict[str, Factors] = field(default_factory=dict)
    half: Matrices = field(default_factory=dict)
    """The gradient of every other sequence, from the first on."""
    half_units: int = 0

    def other_half(self, name: str) -> Tensor:
        """The gradient of the sequences that are not in `half`."""
        rest = self.units - self.half_units
        both, mine = self.units * self.gradient[name], self.half_units * self.half[name]
        return (both - mine) / max(1, rest)


def weights_of(model: nn.Module, sites: Sequence[Site]) -> dict[str, nn.Parameter]:
    """The parameter of every site, as the model keeps it."""
    return {site.name: model.get_submodule(site.name).weight for site in sites}  # type: ignore


def turned(model: nn.Module, name: str) -> bool:
    """GPT-2's Conv1D keeps (in, out)."""
    return type(model.get_submodule(name)).__name__ == "Conv1D"


def as_site(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """(out, in), whatever the module's own habit."""
    return tensor.t() if turned(model, name) else tensor


def summed_loss(model: nn.Module, batch: Batch, kind: Kind = "language") -> Tensor:
    """The data's loss of a batch, summed over what is scored; fit for second derivatives."""
    return F.cross_entropy(logits_of(model, batch, kind), target_of(batch), reduction="sum")


def logits_of(model: nn.Module, batch: Batch, kind: Kind = "language") -> Tensor:
    """(scored tokens, vocabulary) or (sentences, classes), fp32 at least, through attention that
    can be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH), Quick():
        if kind == "classification":
            return class_logits(model, batch)
        head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        hidden = hidden_of(model, batch)[0]
        counted = batch.target != IGNORED
        found: Tensor = head(hidden if bool(counted.all()) else hidden[counted])
        return found if found.dtype == torch.float64 else found.float()


def target_of(batch: Batch) -> Tensor:
    """What counts of a batch's targets."""
    return batch.target[batch.target != IGNORED]


def measure(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    seed: int,
    told: Callable[[int, int], None] = lambda done, total: None,
    kind: Kind = "language",
) -> Curvature:
    """One backward pass a sequence for the gradient, one more for Fisher and K-FAC together."""
    weights = weights_of(model, sites)
    names, parameters = list(weights), list(weights.values())
    gradient = {n: torch.zeros_like(p) for n, p in weights.items()}
    fisher = {n: torch.zeros_like(p) for n, p in weights.items()}
    half = {n: torch.zeros_like(p) for n, p in weights.items()}
    source, units, half_units = torch.Generator().manual_seed(seed), 0, 0
    with watched(model, sites) as factors:
        for i, batch in enumerate(batches):
            logits = logits_of(model, batch, kind)
            if not bool(torch.isfinite(logits).all()):
                raise RunError("the model's outputs are not finite on the calibration text")
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=source)[:, 0]
            own = F.cross_entropy(logits, target_of(batch), reduction="sum")
            sampled = F.cross_entropy(logits, drawn, reduction="sum")
            with unwatched(factors):
                slopes = torch.autograd.grad(own, parameters, retain_graph=True)
            for name, slope in zip(names, slopes, strict=True):
                gradient[name] += slope
                if i % 2 == 0:
                    half[name] += slope
            half_units += 0 if i % 2 else len(logits)
            for name, slope in zip(names, torch.autograd.grad(sampled, parameters), strict=True):
                fisher[name].addcmul_(slope, slope)
            units += len(logits)
            told(i + 1, len(batches))
    return Curvature(
        units,
        {n: as_site(model, n, g) / units for n, g in gradient.items()},
        {n: as_site(model, n, f) / units for n, f in fisher.items()},
        {n: _mean(f, units) for n, f in factors.found.items()},
        {n: as_site(model, n, g) / half_units for n, g in half.items()},
        half_units,
    )


def _mean(found: Factors, units: int) -> Factors:
    """E[a a'] over the rows that the site was given, and the sum of g g' over what is scored: where
    a sentence of many tokens has one loss, its Fisher is theirs together."""

    def over(tensor: Tensor | None, count: int) -> Tensor | None:
        return None if tensor is None else tensor / count

    return Factors(
        over(found.inputs, found.rows_in), over(found.outputs, units),
        over(found.rows, found.looked_up), over(found.row_outputs, units),
        found.out_diagonal, found.rows_in, found.looked_up,
    )  # fmt: skip


class Watch:
    """Gathers factors in the backward passes that it is switched on for."""

    def __init__(self) -> None:
        self.on = True
        self.found: dict[str, Factors] = {}


@contextmanager
def unwatched(watch: Watch) -> Iterator[None]:
    watch.on = False
    try:
        yield
    finally:
        watch.on = True


@contextmanager
def watched(model: nn.Module, sites: Sequence[Site]) -> Iterator[Watch]:
    """Hooks on every use of every site."""
    watch = Watch()
    with ExitStack() as stack:
        for site in sites:
            watch.found[site.name] = Factors(out_diagonal=site.shape[0] > _LARGE)
            for name in (site.name, *site.aliases):
                module = model.get_submodule(name)
                hook = _embedding_hook if isinstance(module, nn.Embedding) else _linear_hook
                handle = module.register_forward_hook(
                    lambda m, x, y, f=watch.found[site.name], h=hook: h(watch, f, x[0], y)
                )
                stack.callback(handle.remove)
        yield watch


_LARGE = 4096
"""Outputs beyond which only the diagonal of E[g g'] is kept."""


def _linear_hook(watch: Watch, found: Factors, x: Tensor, y: Tensor) -> None:
    inputs = x.detach().reshape(-1, x.shape[-1])

    def backward(slope: Tensor) -> None:
        if not watch.on:
            return
        g = slope.detach().reshape(-1, slope.shape[-1])
        found.rows_in += len(inputs)
        found.inputs = _add(found.inputs, _outer(inputs))
        found.outputs = _add(found.outputs, g.square().sum(0) if found.out_diagonal else _outer(g))

    y.register_hook(backward)


def _embedding_hook(watch: Watch, found: Factors, ids: Tensor, y: Tensor) -> None:
    def backward(slope: Tensor) -> None:
        if not watch.on:
            return
        g = slope.detach().reshape(-1, slope.shape[-1])
        found.looked_up += ids.numel()
        count = torch.bincount(ids.reshape(-1), minlength=int(ids.max()) + 1).float()
        found.rows = _add(found.rows, count)
        found.row_outputs = _add(found.row_outputs, _outer(g))

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
        seen = error[: len(factors.rows)]
        total += float((factors.rows * ((seen @ factors.row_outputs) * seen).sum(1)).sum())
    return 0.5 * total
