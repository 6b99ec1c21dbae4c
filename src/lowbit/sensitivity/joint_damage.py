"""The damage of many sites stored at once, cross terms included.

KL and loss run the stored model. Taylor's term is e'He at the actual error e, and Gauss-Newton's is
the same with the curvature of the outputs alone. Both come from running the model at weights
shifted both ways along e, by so little that only the second order matters: the mean loss gives
Taylor's term, the KL gives Gauss-Newton's. Taylor's depends on the true labels, so it varies
between sequences ten times as much. The other formulas add up the sites' own. Monte Carlo runs a
noisy model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from lowbit.core.errors import run_error_prefix
from lowbit.curvature.measured_model import MeasuredModel, OnProgress, shifted
from lowbit.curvature.model_outputs import Outputs
from lowbit.curvature.weight_changes import Errors, scaled
from lowbit.sensitivity.hutchinson import Traces, mean, standard_error
from lowbit.sensitivity.table import Damage, JointChoice, JointDamage, MeasureRequest

SMALL_KL = 3e-4
"""The KL, in nats, at which a shift is small enough for a second derivative.

Far above rounding errors; the fourth order is a few thousandths of that of a 3-bit format.
"""

Damages = Mapping[str, Mapping[str, Damage]]
"""The damage of every site, by site and format."""


def joint_damages(
    model: MeasuredModel,
    request: MeasureRequest,
    reference: Outputs,
    damages: Damages,
    traces: Traces,
    choices: Sequence[JointChoice],
    on_progress: OnProgress,
) -> dict[str, JointDamage]:
    """The damage of every choice, by its name."""
    joint = {}
    losses = reference.losses()
    for i, (name, formats) in enumerate(choices):
        on_progress("choices", i, len(choices))
        with run_error_prefix(name):
            sites = {site: (text, damages[site][text]) for site, text in formats}
            joint[name] = _joint_damage(model, request, reference, losses, sites, traces)
    on_progress("choices", len(choices), len(choices))
    return joint


def _joint_damage(
    model: MeasuredModel,
    request: MeasureRequest,
    reference: Outputs,
    losses: Sequence[float],
    sites: Mapping[str, tuple[str, Damage]],
    traces: Traces,
) -> JointDamage:
    units = sum(model.counts)
    errors = model.errors({name: text for name, (text, _) in sites.items()})
    alone = {name: damage for name, (_, damage) in sites.items()}
    with shifted(model, errors):
        stored_losses, kl = model.losses_and_kl(reference)
    curved, newton = second_order(model, errors, reference, losses, sum(kl) / units)
    increases = [b - a for a, b in zip(losses, stored_losses, strict=True)]
    samples = monte_carlo(model, request, alone)
    per_site = [traces.costs(name, d.weight_error) for name, d in alone.items()]
    draws = [sum(of_draw) for of_draw in zip(*per_site, strict=True)]
    return JointDamage(
        weight_error=sum(d.weight_error for d in alone.values()),
        first_order=sum(d.first_order for d in alone.values()),
        fisher=sum(d.fisher for d in alone.values()),
        kfac=sum(d.kfac for d in alone.values()),
        taylor=sum(curved) / units,
        gauss_newton=sum(newton) / units,
        hutchinson=mean(draws) if draws else None,
        hutchinson_spread=standard_error(draws) if draws else 0.0,
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
    model: MeasuredModel,
    errors: Errors,
    reference: Outputs,
    losses: Sequence[float],
    kl: float,
) -> tuple[list[float], list[float]]:
    """e'He / 2 of every sequence, and the same by Gauss-Newton.

    [L(w + he) + L(w - he)] / 2h^2 - L / h^2 and the mean KL on both sides over h^2, for a small h.
    h is chosen from the KL at the whole error, so that the KL at h e is about `SMALL_KL`. Odd
    orders are the same on both sides and cancel.
    """
    step = min(1.0, math.sqrt(SMALL_KL / kl)) if kl > 0 else 1.0
    sides = []
    for by in (step, -step):
        with shifted(model, scaled(by, errors)):
            sides.append(model.losses_and_kl(reference))
    (loss_up, kl_up), (loss_down, kl_down) = sides
    taylor = [
        (0.5 * (a + b) - c) / step**2 for a, b, c in zip(loss_up, loss_down, losses, strict=True)
    ]
    return taylor, [0.5 * (a + b) / step**2 for a, b in zip(kl_up, kl_down, strict=True)]


def monte_carlo(
    model: MeasuredModel, request: MeasureRequest, sites: Mapping[str, Damage]
) -> list[float]:
    """1/2 [L(w + z) + L(w - z)] - L for Gaussian noise z of each matrix's mean squared error."""
    if not request.samples:
        return []
    sizes = {n: math.sqrt(d.weight_error / model.weight(n).numel()) for n, d in sites.items()}
    source = torch.Generator().manual_seed(request.seed + 2)
    loss, samples = model.subset_loss(), []
    for _ in range(request.samples):
        z = {
            name: size * torch.randn(model.weight(name).shape, generator=source)
            for name, size in sizes.items()
        }
        sides = []
        for sign in (1.0, -1.0):
            with shifted(model, scaled(sign, z)):
                sides.append(model.subset_loss())
        samples.append(0.5 * sum(sides) - loss)
    return samples
