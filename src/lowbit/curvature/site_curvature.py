"""Curvature of the loss at one site: the gradient, Fisher's diagonal and K-FAC's factors.

Everything is per token, so 1/2 sum F e^2 is in nats per token. Fisher and K-FAC use labels drawn
from the model itself: with the data's labels, the squared gradient is not a curvature (Kunstner et
al. 2019). A sequence's gradient is summed before it is squared, because its tokens are not
independent.

A tied matrix is one site with two uses. As an embedding it is a linear layer with one-hot inputs,
so its input factor is diagonal; as a head, only the diagonal of its output factor is stored. The
cross term of the two uses is left out. `walk_curvature` measures all of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowbit.core.spec import Site
from lowbit.curvature.calibrated_share import ColumnCosts, ShareSums
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

    @property
    def by_rows(self) -> bool:
        """Whether no two rows of an error have a cross term."""
        return self.outputs is None or self.out_diagonal

    def each_output(self, part: slice) -> Tensor:
        """E[g^2] of some of a site's outputs."""
        assert self.outputs is not None
        return (self.outputs if self.out_diagonal else self.outputs.diagonal())[part]

    def of_rows(self, part: slice) -> Factors:
        """The factors for some of a site's rows; only `by_rows`."""
        return replace(
            self,
            outputs=None if self.outputs is None else self.outputs[part],
            rows=None if self.rows is None else self.rows[part],
        )


@dataclass(frozen=True)
class SiteCurvature:
    """Gradient, Fisher's diagonal and K-FAC's factors of a site, averaged over tokens.

    They are averaged over sentences where a sentence has one loss. `halves`: the gradient of every
    second sequence, starting with the first, and that of the others; only for block matrices.
    """

    gradient: Tensor
    fisher: Tensor
    factors: Factors
    halves: tuple[Tensor, Tensor] | None = None


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


def outer(rows: Tensor) -> Tensor:
    """The sum of every row's outer product with itself."""
    return linear(rows.t(), rows.t())


# --- costs of an error ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ErrorCosts:
    """|e|^2, and the nats per token of an error: g'e, and of second order by both formulas.

    `calibrated_share`: what calibrated rounding is expected to leave of them.
    """

    square: float
    first_order: float
    fisher: float
    kfac: float
    calibrated_share: float = 1.0


def costs_of(
    at: SiteCurvature,
    parts: Iterable[tuple[slice, Tensor]],
    columns: ColumnCosts | None = None,
) -> ErrorCosts:
    """The costs of an error that is given some rows at a time; at once if rows have cross terms."""
    square = first = fisher = kfac = 0.0
    sums = None if columns is None else ShareSums(columns)
    for part, e in parts:
        square += float(e.square().sum())
        first += float((at.gradient[part] * e).sum())
        fisher += fisher_cost(at.fisher[part], e)
        kfac += kfac_cost(at.factors.of_rows(part) if at.factors.by_rows else at.factors, e)
        if sums is not None:
            sums.add(e, at.factors.each_output(part))
    return ErrorCosts(square, first, fisher, kfac, 1.0 if sums is None else sums.share)


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
