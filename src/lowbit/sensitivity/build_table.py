"""From a model and calibration text to a sensitivity table.

One walk over the model, from its last block to its first, gives each site's gradient, Fisher's
diagonal and K-FAC's factors. While they are there, the damage of every format at that site is taken
from the errors that the format actually makes, and the effect of ranks; then they are freed.

Hessian products cover all block matrices at once, and embeddings and heads separately, because
plans store those in other formats: e'He of one matrix includes its cross terms with the others, so
that the sum over matrices is the joint damage.

With `walk`, every site is also stored alone in every format: the stored model is run, and second
derivatives are taken without cross terms. The damage of several sites at once is computed in
`joint_damage`, and the damage that plans rest on in `anchor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lowbit.core.errors import RunError
from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.curvature import walk_curvature
from lowbit.curvature.calibrated_share import SharedColumns
from lowbit.curvature.measured_model import (
    GAUSS_NEWTON_WORK,
    HESSIAN_WORK,
    MeasuredModel,
    OnProgress,
    resident,
    shifted,
)
from lowbit.curvature.model_outputs import Outputs
from lowbit.curvature.site_curvature import ErrorCosts, SiteCurvature, costs_of
from lowbit.runs import allocator
from lowbit.sensitivity import hessian
from lowbit.sensitivity.anchor import anchored
from lowbit.sensitivity.hutchinson import Traces, hutchinson, mean
from lowbit.sensitivity.joint_damage import joint_damages, monte_carlo
from lowbit.sensitivity.rank_correction import GradientSteps, Roots, SharedAxes, metric, spectrum
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

CURVATURE_WORK = 7.0
"""The work of the walk, in forward passes: two forward, one more with gradients, two backward."""


def build_table(
    model: MeasuredModel,
    request: MeasureRequest,
    names: tuple[str, str],
    on_progress: OnProgress = lambda phase, done, total: None,
) -> SensitivityTable:
    """The whole table; `names` are the model's and the task's."""
    reference = model.outputs()
    losses = reference.losses()
    if not all(map(math.isfinite, losses)):
        raise RunError("the model's outputs are not finite on the calibration text")
    traces = hutchinson(model, request, on_progress)
    taylor = {text: _taylor(model, text) for text in request.formats} if request.exact else {}
    rows, steps = _walk(model, request, traces, taylor, on_progress)
    if request.walk:
        rows = _walked(model, request, reference, rows, on_progress)
    if request.costed:
        rows = _costed(model, request, reference, rows, steps, on_progress)
    damages = {name: row.damages for name, row in rows.items()}
    uniform = uniform_choices(model, request.formats) if request.uniform else ()
    choices = (*uniform, *request.joint)
    whole = joint_damages(model, request, reference, damages, traces, choices, on_progress)
    units = sum(model.counts)
    return SensitivityTable(
        *names, UNITS[model.kind], units, sum(losses) / units, model.passes,
        tuple(rows[site.name] for site in model.sites), whole,
        len(set(model.documents)) or len(model.batches),
    )  # fmt: skip


def uniform_choices(model: MeasuredModel, formats: Sequence[str]) -> tuple[JointChoice, ...]:
    """For every format: all block matrices in it."""
    return tuple((text, tuple((s.name, text) for s in model.block_sites)) for text in formats)


Rows = Mapping[str, SiteTable]


def _walk(
    model: MeasuredModel,
    request: MeasureRequest,
    traces: Traces,
    taylor: Mapping[str, Mapping[str, float]],
    on_progress: OnProgress,
) -> tuple[Rows, RankSteps]:
    """The row of every site, by the curvature at that site."""
    rows, steps = {}, RankSteps()
    shared = SharedAxes(), SharedColumns()
    walked = walk_curvature.walk_curvature(
        model, request.seed, lambda i, n: on_progress("gradients", i, n)
    )
    for site, curved in walked:
        if not bool(torch.isfinite(curved.gradient).all()):
            raise RunError(f"the gradient of {site.name} is not finite on the calibration text")
        of_site = {text: values[site.name] for text, values in taylor.items()}
        rows[site.name] = _site(model, request, site, curved, traces, of_site, steps, shared)
    model.count_work(CURVATURE_WORK)
    return rows, steps


def _site(
    model: MeasuredModel,
    request: MeasureRequest,
    site: Site,
    curved: SiteCurvature,
    traces: Traces,
    taylor: Mapping[str, float],
    steps: RankSteps,
    shared: tuple[SharedAxes, SharedColumns],
) -> SiteTable:
    """One row; for a block matrix, with the effect of ranks."""
    adapted = site.role in BLOCK_ROLES
    axes, columns_of = shared
    sides = metric(curved.factors, axes.inputs) if adapted else None
    columns = columns_of.of(curved.factors.inputs, site.role) if request.costed else None
    roots = Roots.of(sides) if sides else None
    damages, absorbed = {}, {}
    for text in request.formats:
        allocator.empty_holes()
        if roots is None and curved.factors.by_rows:
            costs = costs_of(curved, model.error_parts(site.name, text), columns)
        else:
            error = model.error(site.name, text)
            costs = costs_of(curved, [(slice(None), error)], columns)
            if roots is not None:
                absorbed[text] = roots.absorbed(error, request.ranks)
        damages[text] = _damage(costs, traces, site, taylor.get(text))
    reach, spectra = None, None
    if sides is not None:
        spectra = spectrum(sides[1]), spectrum(sides[0])
        reach = RankEffect(request.ranks, absorbed)
        if request.costed and curved.halves is not None:
            most = max(request.ranks)
            gradient = GradientSteps.of(sides, *curved.halves, most)
            gains, ends = gradient.gains(request.ranks), (min(request.ranks), most)
            at_ends = tuple(gains[request.ranks.index(end)] for end in ends)
            steps.add(site.name, tuple(map(gradient.step, ends)), at_ends)  # type: ignore[arg-type]
            reach = RankEffect(request.ranks, absorbed, gains)
    return SiteTable(
        site.name, site.role, site.depth, site.shape, damages, reach,
        model.variance(site.name), spectra,
    )  # fmt: skip


def _damage(costs: ErrorCosts, traces: Traces, site: Site, taylor: float | None) -> Damage:
    return Damage(
        weight_error=costs.square,
        first_order=costs.first_order,
        fisher=costs.fisher,
        kfac=costs.kfac,
        hutchinson=traces.cost(site.name, costs.square),
        hutchinson_spread=traces.spread(site.name, costs.square),
        taylor=taylor,
        calibrated_share=costs.calibrated_share,
    )


# --- what plans need ------------------------------------------------------------------------------


def _costed(
    model: MeasuredModel,
    request: MeasureRequest,
    reference: Outputs,
    rows: Rows,
    steps: RankSteps,
    on_progress: OnProgress,
) -> Rows:
    """Adds `anchored`, and puts gains in nats."""
    damages = {name: row.damages for name, row in rows.items()}
    costs = anchored(model, request.formats, reference, damages, on_progress)
    scale = gain_scale(model, steps)
    costed = {}
    for name, row in rows.items():
        with_costs = {
            text: replace(damage, anchored=costs[name][text])
            for text, damage in row.damages.items()
        }
        costed[name] = replace(row, damages=with_costs, reach=_in_nats(row.reach, scale))
    return costed


def _in_nats(reach: RankEffect | None, scale: float) -> RankEffect | None:
    if reach is None:
        return None
    return replace(reach, gains=tuple(scale * gain for gain in reach.gains))


# --- expensive predictors -------------------------------------------------------------------------


def _taylor(model: MeasuredModel, text: str) -> dict[str, float]:
    """e'He / 2 of every site: with all block matrices in error at once, then with all others."""
    errors = {site.name: model.error(site.name, text) for site in model.sites}
    costs: dict[str, float] = {}
    for blocks in (True, False):
        group = {s.name for s in model.sites if (s.role in BLOCK_ROLES) == blocks}
        if group:
            e = {n: e if n in group else torch.zeros_like(e) for n, e in errors.items()}
            with resident(model):
                product = hessian.products(model.module, model.sites, model.subset, e, model.kind)
            model.count_work(HESSIAN_WORK, on_subset=True)
            costs |= {n: 0.5 * float((errors[n] * product.matrices[n]).sum()) for n in group}
    return costs


def _walked(
    model: MeasuredModel,
    request: MeasureRequest,
    reference: Outputs,
    rows: Rows,
    on_progress: OnProgress,
) -> Rows:
    """Adds what storing each site alone does, all others exact."""
    walked, done, total = {}, 0, len(rows) * len(request.formats)
    for site in model.sites:
        damages = {}
        for text, damage in rows[site.name].damages.items():
            on_progress("sites alone", done, total)
            alone = _alone(model, request, site, text, reference, damage)
            damages[text] = replace(
                damage, measured=alone.measured, taylor_alone=alone.taylor,
                gauss_newton=alone.gauss_newton, monte_carlo=alone.monte_carlo,
            )  # fmt: skip
            done += 1
        walked[site.name] = replace(rows[site.name], damages=damages)
    on_progress("sites alone", total, total)
    return walked


@dataclass(frozen=True)
class Alone:
    """The damage of a site stored alone, all others exact."""

    measured: float
    taylor: float
    gauss_newton: float
    monte_carlo: float | None


def _alone(
    model: MeasuredModel,
    request: MeasureRequest,
    site: Site,
    text: str,
    reference: Outputs,
    damage: Damage,
) -> Alone:
    """One site stored alone: KL plus first order, Taylor and Gauss-Newton, Monte Carlo."""
    errors = {site.name: model.error(site.name, text)}
    with shifted(model, errors):
        kl = sum(model.losses_and_kl(reference)[1]) / sum(model.counts)
    with resident(model):
        at = (model.module, (site,), model.subset, errors, model.kind)
        product, newton = hessian.products(*at), hessian.gauss_newton(*at)
    model.count_work(HESSIAN_WORK + GAUSS_NEWTON_WORK, on_subset=True)
    taylor = 0.5 * float((errors[site.name] * product.matrices[site.name]).sum())
    samples = monte_carlo(model, request, {site.name: damage})
    return Alone(kl + damage.first_order, taylor, newton, mean(samples) if samples else None)
