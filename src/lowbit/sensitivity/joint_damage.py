"""The damage of many sites stored at once, cross terms included.

Taylor's term is e'He at the actual error e. It comes from the losses at weights shifted both ways
along e, by so little that only the second order matters. That takes two forward passes, so it uses
all of the text. It depends on the true labels, so it varies between sequences ten times as much as
Gauss-Newton does. Gauss-Newton and Hutchinson take second derivatives. KL, loss and Monte Carlo run
the stored model or a noisy one on the calibration text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lowbit.core.errors import run_error_prefix
from lowbit.sensitivity import curvature, hessian
from lowbit.sensitivity.hutchinson import Reference, mean, standard_error
from lowbit.sensitivity.measured_model import (
    GAUSS_NEWTON_WORK,
    Errors,
    MeasuredModel,
    OnProgress,
    shifted,
)
from lowbit.sensitivity.table import JointChoice, JointDamage, MeasureRequest

SMALL_KL = 3e-4
"""The KL, in nats, at which a shift is small enough for a second derivative.

Far above rounding errors; the fourth order is a few thousandths of that of a 3-bit format.
"""


def joint_damages(
    model: MeasuredModel,
    request: MeasureRequest,
    reference: Reference,
    choices: Sequence[JointChoice],
    on_progress: OnProgress,
) -> dict[str, JointDamage]:
    """The damage of every choice, by its name."""
    damages = {}
    losses = model.losses(reference.outputs)
    for i, (name, formats) in enumerate(choices):
        on_progress("choices", i, len(choices))
        errors = {site: model.error(site, text) for site, text in formats}
        with run_error_prefix(name):
            damages[name] = _joint_damage(model, request, reference, losses, errors)
    on_progress("choices", len(choices), len(choices))
    return damages


def _joint_damage(
    model: MeasuredModel,
    request: MeasureRequest,
    reference: Reference,
    losses: Sequence[float],
    errors: Errors,
) -> JointDamage:
    units = reference.curvature.units
    full = {
        s.name: errors[s.name] if s.name in errors else torch.zeros_like(model.weight(s.name))
        for s in model.sites
    }
    newton = hessian.gauss_newton(model.module, model.sites, model.subset, full, model.kind)
    model.count_work(GAUSS_NEWTON_WORK, on_subset=True)
    with shifted(model, errors):
        stored_losses, kl = model.losses_and_kl(reference.outputs)
    curved = second_order(model, errors, losses, sum(kl) / units)
    increases = [b - a for a, b in zip(losses, stored_losses, strict=True)]
    samples = monte_carlo(model, request, errors)
    per_site = [reference.traces.costs(name, e) for name, e in errors.items()]
    traces = [sum(of_draw) for of_draw in zip(*per_site, strict=True)]
    at = reference.curvature
    return JointDamage(
        weight_error=sum(float(e.square().sum()) for e in errors.values()),
        first_order=sum(float((at.gradient[n] * e).sum()) for n, e in errors.items()),
        fisher=sum(curvature.fisher_cost(at.fisher[n], e) for n, e in errors.items()),
        kfac=sum(curvature.kfac_cost(at.factors[n], e) for n, e in errors.items()),
        taylor=sum(curved) / units,
        gauss_newton=newton,
        hutchinson=mean(traces) if traces else None,
        hutchinson_spread=standard_error(traces) if traces else 0.0,
        kl=sum(kl) / units,
        kl_spread=model.spread(kl),
        loss=sum(increases) / units,
        loss_spread=model.spread(increases),
        monte_carlo=mean(samples) if samples else None,
        monte_carlo_spread=standard_error(samples) if samples else 0.0,
        # Without a subset, the spread of the loss includes it.
        curved_spread=model.subset_spread([curved[i] for i in model.curved])
        if model.curved
        else 0.0,
    )


def second_order(
    model: MeasuredModel, errors: Errors, losses: Sequence[float], kl: float
) -> list[float]:
    """e'He / 2 of every sequence: [L(w + he) + L(w - he)] / 2h^2 - L / h^2, for a small h.

    h is chosen from the KL at the whole error, so that the KL at h e is about `SMALL_KL`.
    """
    step = min(1.0, math.sqrt(SMALL_KL / kl)) if kl > 0 else 1.0
    sides = []
    for by in (step, -step):
        with shifted(model, {name: by * e for name, e in errors.items()}):
            sides.append(model.current_losses())
    return [(0.5 * (a + b) - c) / step**2 for a, b, c in zip(*sides, losses, strict=True)]


def monte_carlo(model: MeasuredModel, request: MeasureRequest, errors: Errors) -> list[float]:
    """1/2 [L(w + z) + L(w - z)] - L for Gaussian noise z of each matrix's mean squared error."""
    if not request.samples:
        return []
    source = torch.Generator().manual_seed(request.seed + 2)
    loss, samples = model.subset_loss(), []
    for _ in range(request.samples):
        z = {
            n: math.sqrt(float(e.square().mean())) * torch.randn(e.shape, generator=source)
            for n, e in errors.items()
        }
        sides = []
        for sign in (1.0, -1.0):
            with shifted(model, {n: sign * v for n, v in z.items()}):
                sides.append(model.subset_loss())
        samples.append(0.5 * sum(sides) - loss)
    return samples
