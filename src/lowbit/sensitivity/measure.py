"""From a model and calibration text to a table of sensitivities.

One backward pass a sequence gives the gradient, Fisher's diagonal and K-FAC's factors of all sites;
every format is then costed on the errors that it really makes. Hessian products take all block
matrices at once, and embeddings and heads apart from them, since plans store those otherwise: e'He
of a matrix holds its cross terms with the others, which sum to what the joint damage is.
With `walk` every site and format is also looked at alone: the stored model is run, and second
derivatives are taken without cross terms. Several sites at once are `jointly`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowbit.core.errors import RunError, about
from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity import curvature, hessian
from lowbit.sensitivity.curvature import Curvature
from lowbit.sensitivity.hutchinson import Known, hutchinson, mean
from lowbit.sensitivity.joint_damage import jointly, monte_carlo
from lowbit.sensitivity.measured_model import (
    HESSIAN,
    NEWTON,
    Errors,
    Lab,
    Told,
    divergence,
    moved,
)
from lowbit.sensitivity.rank_correction import (
    Ascent,
    Metric,
    absorbed_shares,
    metric,
    spectrum,
)
from lowbit.sensitivity.rank_gain import Steps, factor
from lowbit.sensitivity.table import (
    UNITS,
    Asked,
    Damage,
    Joint,
    Reach,
    SensitivityTable,
    SiteTable,
)

CLOSED_FROM = 4.0
"""Bits from which K-FAC tells matrices apart as well as running the model does."""
SPARED = 4
"""One of so many sequences tells how damage divides among matrices."""
GRADIENTS = 5.0
"""What the two backward passes cost, in forward passes."""


def measure(
    lab: Lab, asked: Asked, names: tuple[str, str], told: Told = lambda what, done, total: None
) -> SensitivityTable:
    """The whole table; `names` are the model's and the task's."""
    found = curvature.measure(
        lab.model, lab.sites, lab.batches, asked.seed, lambda i, n: told("gradients", i, n),
        lab.kind,
    )  # fmt: skip
    lab.worked(GRADIENTS)
    _finite(found)
    known = Known(found, hutchinson(lab, asked, told), lab.outputs())
    damages: dict[str, dict[str, Damage]] = {site.name: {} for site in lab.sites}
    for i, text in enumerate(asked.formats):
        told("formats", i, len(asked.formats))
        errors = {site.name: lab.error(site.name, text) for site in lab.sites}
        curved = _curved(lab, errors) if asked.exact else {}
        done: dict[str, Damage] = {}
        for site in lab.sites:
            e = errors[site.name]
            alone = _alone(lab, asked, site, e, known) if asked.walk else Walked()
            done[site.name] = _damage(known, site, e, curved.get(site.name), alone)
        if asked.costed:
            with about(text):
                done = _anchored(lab, known, errors, done, bits_of(parse(text)) < CLOSED_FROM)
        for name, damage in done.items():
            damages[name][text] = damage
    told("formats", len(asked.formats), len(asked.formats))
    sites, steps = [], Steps()
    for i, site in enumerate(lab.sites):
        told("ranks", i, len(lab.sites))
        sites.append(_site(lab, asked, found, site, damages[site.name], steps))
    if asked.costed:
        sites = [_worth(site, by) for by in [factor(lab, steps)] for site in sites]
    told("ranks", len(lab.sites), len(lab.sites))
    loss = sum(lab.losses(known.outputs)) / found.units
    choices = (*(uniformly(lab, asked.formats) if asked.uniform else ()), *asked.joint)
    whole = jointly(lab, asked, known, choices, told)
    unit = UNITS[lab.kind]
    documents = len(set(lab.documents)) or len(lab.batches)
    return SensitivityTable(
        *names, unit, found.units, loss, lab.passes, tuple(sites), whole, documents
    )


def uniformly(lab: Lab, formats: Sequence[str]) -> tuple[Joint, ...]:
    """Every format in all block matrices."""
    return tuple((text, tuple((site.name, text) for site in lab.blocks)) for text in formats)


@dataclass(frozen=True)
class Walked:
    """What is known of a site only by a walk: all others as they are."""

    measured: float | None = None
    taylor_alone: float | None = None
    gauss_newton: float | None = None
    monte_carlo: float | None = None


def _damage(known: Known, site: Site, error: Tensor, curved: float | None, alone: Walked) -> Damage:
    found = known.curvature
    return Damage(
        weight_error=float(error.square().sum()),
        first_order=float((found.gradient[site.name] * error).sum()),
        fisher=curvature.fisher_cost(found.fisher[site.name], error),
        kfac=curvature.kfac_cost(found.factors[site.name], error),
        hutchinson=known.traces.cost(site.name, error),
        hutchinson_spread=known.traces.spread(site.name, error),
        taylor=curved,
        measured=alone.measured,
        taylor_alone=alone.taylor_alone,
        gauss_newton=alone.gauss_newton,
        monte_carlo=alone.monte_carlo,
    )


def _anchored(
    lab: Lab, known: Known, errors: Errors, found: dict[str, Damage], few: bool
) -> dict[str, Damage]:
    """Damage brought to what running the stored model shows: the KL of all block matrices in a
    format together, of an embedding or a head by itself. What each matrix has of it K-FAC says, or,
    in few bits, where K-FAC overshoots at some and not at others, the KL of each alone."""
    blocks = [site.name for site in lab.blocks]
    alone = [[site.name] for site in lab.sites if site.role not in BLOCK_ROLES]
    made: dict[str, Damage] = {}
    for group in [blocks, *alone] if blocks else alone:
        with moved(lab, {name: errors[name] for name in group}):
            apart = max(0.0, sum(lab.beside(known.outputs)[1])) / known.curvature.units
        parts = {name: found[name].kfac for name in group}
        if few and len(group) > 1:
            parts = {name: _kl_alone(lab, known, name, errors[name]) for name in group}
        whole = sum(parts.values())
        for name, part in parts.items():
            made[name] = replace(found[name], anchored=apart * part / whole if whole > 0 else 0.0)
    return made


def _kl_alone(lab: Lab, known: Known, name: str, error: Tensor) -> float:
    """Of one matrix stored and all others as they are, on a part of the text."""
    with moved(lab, {name: error}):
        seen = lab.seen(lab.batches[::SPARED])
        pairs = zip(known.outputs[::SPARED], seen, strict=True)
        apart = sum(divergence(before, after) for before, after in pairs)
    lab.worked(1 / SPARED)
    return max(0.0, apart)


def _worth(site: SiteTable, by: float) -> SiteTable:
    """A site's gains in nats."""
    if site.reach is None:
        return site
    gains = tuple(by * gain for gain in site.reach.gains)
    return replace(site, reach=replace(site.reach, gains=gains))


def _site(
    lab: Lab,
    asked: Asked,
    found: Curvature,
    site: Site,
    damages: dict[str, Damage],
    steps: Steps,
) -> SiteTable:
    """All that is known of a site; of one in a block, what ranks do there too."""
    reach, spectra = None, None
    if site.role in BLOCK_ROLES:
        outputs, inputs = sides = metric(found.factors[site.name])
        reach = _reach(lab, asked, sides, found, site.name, steps)
        spectra = spectrum(inputs), spectrum(outputs)
    variance = float(lab.weight(site.name).var())
    return SiteTable(
        site.name, site.role, site.depth, site.shape, damages, reach, variance, spectra
    )


def _reach(
    lab: Lab, asked: Asked, sides: Metric, found: Curvature, name: str, steps: Steps
) -> Reach:
    errors = (lab.error(name, text) for text in asked.formats)
    absorbed = absorbed_shares(sides, errors, asked.ranks)
    shares = dict(zip(asked.formats, absorbed, strict=True))
    if not asked.costed:
        return Reach(asked.ranks, shares)
    ascent = Ascent.of(sides, found.half[name], found.other_half(name))
    gains, ends = ascent.gains(asked.ranks), (min(asked.ranks), max(asked.ranks))
    won = (gains[asked.ranks.index(ends[0])], gains[asked.ranks.index(ends[1])])
    steps.add(name, (ascent.step(ends[0]), ascent.step(ends[1])), won)
    return Reach(asked.ranks, shares, gains)


def _finite(found: Curvature) -> None:
    for name, gradient in found.gradient.items():
        if not bool(torch.isfinite(gradient).all()):
            raise RunError(f"the gradient of {name} is not finite on the calibration text")


def _curved(lab: Lab, errors: Errors) -> dict[str, float]:
    """e'He / 2 of every site: all block matrices in error at once, then all others."""
    found: dict[str, float] = {}
    for blocks in (True, False):
        mine = {s.name for s in lab.sites if (s.role in BLOCK_ROLES) == blocks}
        if mine:
            held = {n: e if n in mine else torch.zeros_like(e) for n, e in errors.items()}
            product = hessian.products(lab.model, lab.sites, lab.few, held, lab.kind)
            lab.worked(HESSIAN, few=True)
            found |= {n: 0.5 * float((errors[n] * product.matrices[n]).sum()) for n in mine}
    return found


def _alone(lab: Lab, asked: Asked, site: Site, error: Tensor, known: Known) -> Walked:
    """KL of the outputs with one site stored, plus the first order; Taylor's second order and
    Gauss-Newton without cross terms; Monte Carlo."""
    held = {site.name: error}
    with moved(lab, held):
        apart = sum(lab.beside(known.outputs)[1]) / known.curvature.units
    product = hessian.products(lab.model, (site,), lab.few, held, lab.kind)
    lab.worked(HESSIAN, few=True)
    curved = 0.5 * float((error * product.matrices[site.name]).sum())
    newton = hessian.gauss_newton(lab.model, (site,), lab.few, held, lab.kind)
    lab.worked(NEWTON, few=True)
    first = float((known.curvature.gradient[site.name] * error).sum())
    drawn = monte_carlo(lab, asked, held)
    return Walked(apart + first, curved, newton, mean(drawn) if drawn else None)
