"""From a model and calibration text to a table of sensitivities.

One backward pass a sequence gives the gradient, Fisher's diagonal and K-FAC's factors of all sites;
every format is then costed on the errors that it really makes. Hessian products take all sites at
once: e'He of a site holds its cross terms with the others, which sum to what the joint damage is.
Runs of the stored model (KL, Monte Carlo) are of all block matrices together, and with `walk` of
every site and format alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit import curvature
from lowbit.curvature import Curvature, as_site, logits_of, weights_of
from lowbit.errors import RunError
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse
from lowbit.reach import absorbed_share, gains
from lowbit.sensitivity import Damage, Reach, SensitivityTable, SiteTable, Whole
from lowbit.spec import BLOCK_ROLES, Site
from lowbit.tasks.base import Batch

Errors = dict[str, Tensor]
# What each step costs, in forward passes.
FIRST, HESSIAN, NEWTON = 5.0, 6.0, 3.0


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    formats: tuple[str, ...]
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    samples: int = 4
    seed: int = 0
    walk: bool = False


@dataclass
class Lab:
    """A model in full precision with the text that it is measured on."""

    model: nn.Module
    sites: tuple[Site, ...]
    batches: Sequence[Batch]
    passes: float = 0.0

    @property
    def blocks(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.role in BLOCK_ROLES)

    def weight(self, name: str) -> Tensor:
        weight: Tensor = self.model.get_submodule(name).weight.detach()  # type: ignore
        return as_site(self.model, name, weight)


def measure(
    lab: Lab,
    asked: Asked,
    names: tuple[str, str],
    told: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> SensitivityTable:
    """The whole table; `names` are the model's and the task's."""
    found = curvature.measure(
        lab.model, lab.sites, lab.batches, asked.seed, lambda i, n: told("gradients", i, n)
    )
    lab.passes += FIRST
    _finite(found)
    before = [logits_of(lab.model, batch).detach() for batch in lab.batches]
    loss = _loss(lab, before)
    lab.passes += 1
    traces = hutchinson(lab, asked, told)
    damages: dict[str, dict[str, Damage]] = {site.name: {} for site in lab.sites}
    absorbed: dict[str, dict[str, tuple[float, ...]]] = {site.name: {} for site in lab.sites}
    whole = {}
    for i, text in enumerate(asked.formats):
        told("formats", i, len(asked.formats))
        errors = {site.name: error_of(lab.weight(site.name), text) for site in lab.sites}
        whole[text], curved = _whole(lab, asked, errors, found, before, loss, traces)
        for site in lab.sites:
            e, factors = errors[site.name], found.factors[site.name]
            damages[site.name][text] = Damage(
                weight_error=float(e.square().sum()),
                first_order=float((found.gradient[site.name] * e).sum()),
                fisher=curvature.fisher_cost(found.fisher[site.name], e),
                kfac=curvature.kfac_cost(factors, e),
                hutchinson=_scaled(traces, site.name, e),
                taylor=curved[site.name],
                measured=_alone(lab, site, e, before, found) if asked.walk else None,
            )
            if site.role in BLOCK_ROLES:
                absorbed[site.name][text] = absorbed_share(factors, e, asked.ranks)
    told("formats", len(asked.formats), len(asked.formats))
    sites = tuple(
        SiteTable(
            site.name, site.role, site.depth, site.shape, damages[site.name],
            _reach(found, site, absorbed[site.name], asked.ranks),
        )
        for site in lab.sites
    )  # fmt: skip
    return SensitivityTable(*names, found.tokens, loss, lab.passes, sites, whole)


def error_of(weight: Tensor, text: str) -> Tensor:
    """What a format does to a matrix: stored minus exact."""
    return decode(encode(weight.float(), parse(text))) - weight.float()


def _reach(
    found: Curvature, site: Site, absorbed: dict[str, tuple[float, ...]], ranks: tuple[int, ...]
) -> Reach | None:
    if site.role not in BLOCK_ROLES:
        return None
    won = gains(found.factors[site.name], found.gradient[site.name], ranks)
    return Reach(ranks, absorbed, won)


def _finite(found: Curvature) -> None:
    for name, gradient in found.gradient.items():
        if not bool(torch.isfinite(gradient).all()):
            raise RunError(f"the gradient of {name} is not finite on the calibration text")


def _loss(lab: Lab, logits: Sequence[Tensor]) -> float:
    pairs = zip(logits, lab.batches, strict=True)
    total = sum(float(F.cross_entropy(x, b.target, reduction="sum")) for x, b in pairs)
    return total / sum(len(batch.ids) for batch in lab.batches)


# --- second order ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traces:
    """v'Hv of every site for noise with each weight's group variance, a value a sample."""

    values: dict[str, tuple[float, ...]]
    power: dict[str, float]


def hutchinson(lab: Lab, asked: Asked, told: Callable[[str, int, int], None]) -> Traces:
    """Noise over all sites at once: other sites' share of v'(Hv) has mean zero."""
    source = torch.Generator().manual_seed(asked.seed + 1)
    values: dict[str, list[float]] = {site.name: [] for site in lab.sites}
    scales = {site.name: _noise_scale(lab.weight(site.name)) for site in lab.sites}
    for i in range(asked.samples):
        told("curvature", i, asked.samples)
        v = {n: s * torch.randn(s.shape, generator=source) for n, s in scales.items()}
        product = curvature.hessian_products(lab.model, lab.sites, lab.batches, v)
        for name in values:
            values[name].append(float((v[name] * product[name]).sum()))
        lab.passes += HESSIAN
    power = {name: float(scale.square().sum()) for name, scale in scales.items()}
    return Traces({n: tuple(v) for n, v in values.items()}, power)


def _noise_scale(weight: Tensor, group: int = 64) -> Tensor:
    """The largest weight of each group, spread over it: what a grid's step is proportional to."""
    rows, columns = weight.shape
    padded = F.pad(weight.abs(), (0, -columns % group)).view(rows, -1, group)
    largest = padded.amax(-1, keepdim=True).expand_as(padded).reshape(rows, -1)
    return largest[:, :columns].contiguous()


def _scaled(traces: Traces, name: str, error: Tensor) -> float:
    """1/2 v'Hv brought to the size of the error that a format really makes."""
    mean = sum(traces.values[name]) / len(traces.values[name])
    return 0.5 * mean * float(error.square().sum()) / traces.power[name]


def _whole(
    lab: Lab,
    asked: Asked,
    errors: Errors,
    found: Curvature,
    before: Sequence[Tensor],
    loss: float,
    traces: Traces,
) -> tuple[Whole, dict[str, float]]:
    """All block matrices in one format, and e'He / 2 of every site."""
    blocks = {site.name for site in lab.blocks}
    held = {n: e if n in blocks else torch.zeros_like(e) for n, e in errors.items()}
    product = curvature.hessian_products(lab.model, lab.sites, lab.batches, errors)
    curved = {n: 0.5 * float((errors[n] * product[n]).sum()) for n in errors}
    own = curvature.hessian_products(lab.model, lab.sites, lab.batches, held)
    taylor = 0.5 * sum(float((held[n] * own[n]).sum()) for n in blocks)
    newton = curvature.gauss_newton(lab.model, lab.sites, lab.batches, held)
    with moved(lab, held):
        after = [logits_of(lab.model, batch).detach() for batch in lab.batches]
    lab.passes += 2 * HESSIAN + NEWTON + 1
    samples = _monte_carlo(lab, asked, held, loss)
    per_sample = [
        sum(0.5 * traces.values[n][i] * float(held[n].square().sum()) / traces.power[n]
            for n in blocks)
        for i in range(asked.samples)
    ]  # fmt: skip
    whole = Whole(
        first_order=sum(float((found.gradient[n] * held[n]).sum()) for n in blocks),
        taylor=taylor,
        gauss_newton=newton,
        hutchinson=_mean(per_sample),
        hutchinson_spread=_error(per_sample),
        kl=divergence(before, after),
        loss=_loss(lab, after) - loss,
        monte_carlo=_mean(samples),
        monte_carlo_spread=_error(samples),
    )
    return whole, curved


def _monte_carlo(lab: Lab, asked: Asked, held: Errors, loss: float) -> list[float]:
    """1/2 [L(w + z) + L(w - z)] - L for noise of each matrix's mean squared error."""
    source = torch.Generator().manual_seed(asked.seed + 2)
    found = []
    for _ in range(asked.samples):
        z = {
            n: math.sqrt(float(e.square().mean())) * torch.randn(e.shape, generator=source)
            for n, e in held.items()
        }
        sides = []
        for sign in (1.0, -1.0):
            with moved(lab, {n: sign * v for n, v in z.items()}):
                sides.append(_loss(lab, [logits_of(lab.model, b).detach() for b in lab.batches]))
        found.append(0.5 * sum(sides) - loss)
        lab.passes += 2
    return found


def _alone(
    lab: Lab, site: Site, error: Tensor, before: Sequence[Tensor], found: Curvature
) -> float:
    """KL of the outputs with one site stored, plus the first order."""
    with moved(lab, {site.name: error}):
        after = [logits_of(lab.model, batch).detach() for batch in lab.batches]
    lab.passes += 1
    return divergence(before, after) + float((found.gradient[site.name] * error).sum())


def divergence(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """KL(p || q) a token."""
    total = sum(
        float((p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum())
        for p, q in zip(before, after, strict=True)
    )
    return total / sum(len(p) for p in before)


@contextmanager
def moved(lab: Lab, by: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with some weights moved, and exactly as it was afterwards."""
    weights = weights_of(lab.model, [site for site in lab.sites if site.name in by])
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(as_site(lab.model, name, by[name]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _error(values: Sequence[float]) -> float:
    """Standard error of the mean."""
    if len(values) < 2:
        return math.inf
    mean = _mean(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
