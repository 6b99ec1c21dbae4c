"""From a model and calibration text to a sensitivity table.

One backward pass per sequence gives the gradient, another one Fisher's diagonal and K-FAC's factors
of all sites. Every format's damage then uses the errors that it actually makes. Hessian products
cover all block matrices at once, and embeddings and heads separately, because plans store those
in other formats: e'He of one matrix includes its cross terms with the others, so that the sum over
matrices is the joint damage.

With `walk`, every site is also stored alone in every format: the stored model is run, and second
derivatives are taken without cross terms. The damage of several sites at once is computed in
`joint_damage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowbit.core.errors import RunError, run_error_prefix
from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity import curvature, hessian
from lowbit.sensitivity.curvature import Curvature
from lowbit.sensitivity.hutchinson import Reference, hutchinson, mean
from lowbit.sensitivity.joint_damage import joint_damages, monte_carlo
from lowbit.sensitivity.measured_model import (
    GAUSS_NEWTON_WORK,
    HESSIAN_WORK,
    Errors,
    MeasuredModel,
    OnProgress,
    kl_divergence,
    shifted,
)
from lowbit.sensitivity.rank_correction import (
    GradientSteps,
    Metric,
    absorbed_shares,
    metric,
    spectrum,
)
from lowbit.sensitivity.rank_gain import RankSteps, gain_scale
from lowbit.sensitivity.table import (
    UNITS,
    Damage,
    JointChoice,
    MeasureRequest,
    RankEffect,
    SensitivityTable,
    SiteTable,
)

KFAC_FROM_BITS = 4.0
"""From this many bits on, K-FAC ranks matrices as well as running the model does."""
EVERY = 4
"""Every fourth sequence is enough to divide damage among matrices."""
GRADIENT_WORK = 5.0
"""The work of the two backward passes, in forward passes."""


def build_table(
    model: MeasuredModel,
    request: MeasureRequest,
    names: tuple[str, str],
    on_progress: OnProgress = lambda phase, done, total: None,
) -> SensitivityTable:
    """The whole table; `names` are the model's and the task's."""
    curved = curvature.measure_curvature(
        model.module, model.sites, model.batches, request.seed,
        lambda i, n: on_progress("gradients", i, n), model.kind,
    )  # fmt: skip
    model.count_work(GRADIENT_WORK)
    _check_finite(curved)
    reference = Reference(curved, hutchinson(model, request, on_progress), model.outputs())
    damages = _damages(model, request, reference, on_progress)
    sites = _sites(model, request, curved, damages, on_progress)
    loss = sum(model.losses(reference.outputs)) / curved.units
    uniform = uniform_choices(model, request.formats) if request.uniform else ()
    whole = joint_damages(model, request, reference, (*uniform, *request.joint), on_progress)
    documents = len(set(model.documents)) or len(model.batches)
    return SensitivityTable(
        *names, UNITS[model.kind], curved.units, loss, model.passes, sites, whole, documents
    )


def uniform_choices(model: MeasuredModel, formats: Sequence[str]) -> tuple[JointChoice, ...]:
    """For every format: all block matrices in it."""
    return tuple((text, tuple((site.name, text) for site in model.blocks)) for text in formats)


def _damages(
    model: MeasuredModel, request: MeasureRequest, reference: Reference, on_progress: OnProgress
) -> dict[str, dict[str, Damage]]:
    """The damage of every site, by site and format."""
    damages: dict[str, dict[str, Damage]] = {site.name: {} for site in model.sites}
    for i, text in enumerate(request.formats):
        on_progress("formats", i, len(request.formats))
        errors = {site.name: model.error(site.name, text) for site in model.sites}
        taylor = _taylor(model, errors) if request.exact else {}
        row: dict[str, Damage] = {}
        for site in model.sites:
            e = errors[site.name]
            alone = _alone(model, request, site, e, reference) if request.walk else Alone()
            row[site.name] = _damage(reference, site, e, taylor.get(site.name), alone)
        if request.costed:
            with run_error_prefix(text):
                row = _anchored(model, reference, errors, row, bits_of(parse(text)))
        for name, damage in row.items():
            damages[name][text] = damage
    on_progress("formats", len(request.formats), len(request.formats))
    return damages


@dataclass(frozen=True)
class Alone:
    """The damage of a site stored alone, all others exact; only a walk measures it."""

    measured: float | None = None
    taylor_alone: float | None = None
    gauss_newton: float | None = None
    monte_carlo: float | None = None


def _damage(
    reference: Reference, site: Site, error: Tensor, taylor: float | None, alone: Alone
) -> Damage:
    at = reference.curvature
    return Damage(
        weight_error=float(error.square().sum()),
        first_order=float((at.gradient[site.name] * error).sum()),
        fisher=curvature.fisher_cost(at.fisher[site.name], error),
        kfac=curvature.kfac_cost(at.factors[site.name], error),
        hutchinson=reference.traces.cost(site.name, error),
        hutchinson_spread=reference.traces.spread(site.name, error),
        taylor=taylor,
        measured=alone.measured,
        taylor_alone=alone.taylor_alone,
        gauss_newton=alone.gauss_newton,
        monte_carlo=alone.monte_carlo,
    )


def _anchored(
    model: MeasuredModel,
    reference: Reference,
    errors: Errors,
    damages: dict[str, Damage],
    bits: float,
) -> dict[str, Damage]:
    """Adds `anchored`: damage scaled to the KL that running the stored model shows.

    All block matrices are stored together, each embedding and head alone. K-FAC divides the KL
    among the matrices. With few bits it overestimates some of them and not others; then each
    matrix's KL alone divides it.
    """
    blocks = [site.name for site in model.blocks]
    others = [[site.name] for site in model.sites if site.role not in BLOCK_ROLES]
    anchored: dict[str, Damage] = {}
    for group in [blocks, *others] if blocks else others:
        with shifted(model, {name: errors[name] for name in group}):
            kl = max(0.0, sum(model.losses_and_kl(reference.outputs)[1]))
        kl /= reference.curvature.units
        parts = {name: damages[name].kfac for name in group}
        if bits < KFAC_FROM_BITS and len(group) > 1:
            parts = {name: _kl_alone(model, reference, name, errors[name]) for name in group}
        total = sum(parts.values())
        for name, part in parts.items():
            share = kl * part / total if total > 0 else 0.0
            anchored[name] = replace(damages[name], anchored=share)
    return anchored


def _kl_alone(model: MeasuredModel, reference: Reference, name: str, error: Tensor) -> float:
    """The KL with one matrix stored and all others exact, on a part of the text."""
    with shifted(model, {name: error}):
        outputs = model.log_probs(model.batches[::EVERY])
        pairs = zip(reference.outputs[::EVERY], outputs, strict=True)
        kl = sum(kl_divergence(before, after) for before, after in pairs)
    model.count_work(1 / EVERY)
    return max(0.0, kl)


def _sites(
    model: MeasuredModel,
    request: MeasureRequest,
    curved: Curvature,
    damages: dict[str, dict[str, Damage]],
    on_progress: OnProgress,
) -> tuple[SiteTable, ...]:
    """The rows of the table; gains in nats where the request is for the planner."""
    sites, steps = [], RankSteps()
    for i, site in enumerate(model.sites):
        on_progress("ranks", i, len(model.sites))
        sites.append(_site(model, request, curved, site, damages[site.name], steps))
    if request.costed:
        scale = gain_scale(model, steps)
        sites = [_scaled(site, scale) for site in sites]
    on_progress("ranks", len(model.sites), len(model.sites))
    return tuple(sites)


def _scaled(site: SiteTable, scale: float) -> SiteTable:
    """The site with its gains in nats."""
    if site.reach is None:
        return site
    gains = tuple(scale * gain for gain in site.reach.gains)
    return replace(site, reach=replace(site.reach, gains=gains))


def _site(
    model: MeasuredModel,
    request: MeasureRequest,
    curved: Curvature,
    site: Site,
    damages: dict[str, Damage],
    steps: RankSteps,
) -> SiteTable:
    """One row; for a block matrix, with the effect of ranks."""
    reach, spectra = None, None
    if site.role in BLOCK_ROLES:
        outputs, inputs = sides = metric(curved.factors[site.name])
        reach = _rank_effect(model, request, sides, curved, site.name, steps)
        spectra = spectrum(inputs), spectrum(outputs)
    variance = float(model.weight(site.name).var())
    return SiteTable(
        site.name, site.role, site.depth, site.shape, damages, reach, variance, spectra
    )


def _rank_effect(
    model: MeasuredModel,
    request: MeasureRequest,
    sides: Metric,
    curved: Curvature,
    name: str,
    steps: RankSteps,
) -> RankEffect:
    """What ranks recover of the damage; for the planner, also their gains, adding to `steps`."""
    errors = (model.error(name, text) for text in request.formats)
    absorbed = absorbed_shares(sides, errors, request.ranks)
    shares = dict(zip(request.formats, absorbed, strict=True))
    if not request.costed:
        return RankEffect(request.ranks, shares)
    gradient = GradientSteps.of(sides, curved.half[name], curved.other_half(name))
    gains, ends = gradient.gains(request.ranks), (min(request.ranks), max(request.ranks))
    at_ends = (gains[request.ranks.index(ends[0])], gains[request.ranks.index(ends[1])])
    steps.add(name, (gradient.step(ends[0]), gradient.step(ends[1])), at_ends)
    return RankEffect(request.ranks, shares, gains)


def _check_finite(curved: Curvature) -> None:
    for name, gradient in curved.gradient.items():
        if not bool(torch.isfinite(gradient).all()):
            raise RunError(f"the gradient of {name} is not finite on the calibration text")


def _taylor(model: MeasuredModel, errors: Errors) -> dict[str, float]:
    """e'He / 2 of every site: with all block matrices in error at once, then with all others."""
    costs: dict[str, float] = {}
    for blocks in (True, False):
        group = {s.name for s in model.sites if (s.role in BLOCK_ROLES) == blocks}
        if group:
            e = {n: e if n in group else torch.zeros_like(e) for n, e in errors.items()}
            product = hessian.products(model.module, model.sites, model.subset, e, model.kind)
            model.count_work(HESSIAN_WORK, on_subset=True)
            costs |= {n: 0.5 * float((errors[n] * product.matrices[n]).sum()) for n in group}
    return costs


def _alone(
    model: MeasuredModel, request: MeasureRequest, site: Site, error: Tensor, reference: Reference
) -> Alone:
    """One site stored alone: KL plus first order, Taylor and Gauss-Newton, Monte Carlo."""
    errors = {site.name: error}
    with shifted(model, errors):
        kl = sum(model.losses_and_kl(reference.outputs)[1]) / reference.curvature.units
    product = hessian.products(model.module, (site,), model.subset, errors, model.kind)
    model.count_work(HESSIAN_WORK, on_subset=True)
    taylor = 0.5 * float((error * product.matrices[site.name]).sum())
    newton = hessian.gauss_newton(model.module, (site,), model.subset, errors, model.kind)
    model.count_work(GAUSS_NEWTON_WORK, on_subset=True)
    first = float((reference.curvature.gradient[site.name] * error).sum())
    samples = monte_carlo(model, request, errors)
    return Alone(kl + first, taylor, newton, mean(samples) if samples else None)
