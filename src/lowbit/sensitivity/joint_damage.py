"""Many sites stored in few bits at once: where the cross terms show, and the model is run.

Gauss-Newton and Hutchinson cost second derivatives. Taylor's at the real error, one number a
sequence, is had from losses on both sides of where the model stands, so near that nothing beyond
second order shows: two forward passes, so all of the text can afford it. Its true labels make it
vary from sequence to sequence ten times as much as the outputs' own curvature does. KL and Monte
Carlo run the stored or a noisy model on the calibration text, and say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lowbit.core.errors import about
from lowbit.sensitivity import curvature, hessian
from lowbit.sensitivity.hutchinson import Known, mean, standard_error
from lowbit.sensitivity.measured_model import NEWTON, Errors, Lab, Told, moved
from lowbit.sensitivity.table import Asked, Joint, Whole

NEAR = 3e-4
"""Nats of KL by which the model is moved for a second derivative, or by the whole error if that is
less: far above rounding, and fourth order is a few thousandths of a 3-bit format's own."""


def jointly(
    lab: Lab,
    asked: Asked,
    known: Known,
    choices: Sequence[Joint],
    told: Told,
) -> dict[str, Whole]:
    """What every choice does, by its name."""
    found = {}
    before = lab.losses(known.outputs)
    for i, (name, formats) in enumerate(choices):
        told("choices", i, len(choices))
        chosen = {site: lab.error(site, text) for site, text in formats}
        with about(name):
            found[name] = _whole(lab, asked, known, before, chosen)
    told("choices", len(choices), len(choices))
    return found


def _whole(
    lab: Lab,
    asked: Asked,
    known: Known,
    before: Sequence[float],
    chosen: Errors,
) -> Whole:
    units = known.curvature.units
    held = {
        s.name: chosen[s.name] if s.name in chosen else torch.zeros_like(lab.weight(s.name))
        for s in lab.sites
    }
    newton = hessian.gauss_newton(lab.model, lab.sites, lab.few, held, lab.kind)
    lab.worked(NEWTON, few=True)
    with moved(lab, chosen):
        after, kl = lab.beside(known.outputs)
    curved = second_order(lab, chosen, before, sum(kl) / units)
    apart = [b - a for a, b in zip(before, after, strict=True)]
    samples = monte_carlo(lab, asked, chosen)
    each = [known.traces.costs(name, e) for name, e in chosen.items()]
    traces = [sum(of_sample) for of_sample in zip(*each, strict=True)]
    gradient = known.curvature.gradient
    return Whole(
        weight_error=sum(float(e.square().sum()) for e in chosen.values()),
        first_order=sum(float((gradient[n] * e).sum()) for n, e in chosen.items()),
        fisher=sum(curvature.fisher_cost(known.curvature.fisher[n], e) for n, e in chosen.items()),
        kfac=sum(curvature.kfac_cost(known.curvature.factors[n], e) for n, e in chosen.items()),
        taylor=sum(curved) / units,
        gauss_newton=newton,
        hutchinson=mean(traces) if traces else None,
        hutchinson_spread=standard_error(traces) if traces else 0.0,
        kl=sum(kl) / units,
        kl_spread=lab.spread(kl),
        loss=sum(apart) / units,
        loss_spread=lab.spread(apart),
        monte_carlo=mean(samples) if samples else None,
        monte_carlo_spread=standard_error(samples) if samples else 0.0,
        # Where the few are all, the spread of what was lost holds it.
        curved_spread=lab.spread_of_few([curved[i] for i in lab.curved]) if lab.curved else 0.0,
    )


def second_order(lab: Lab, error: Errors, before: Sequence[float], kl: float) -> list[float]:
    """e'He / 2 of every sequence: [L(w + he) + L(w - he)] / 2h^2 - L / h^2, for a small h."""
    step = min(1.0, math.sqrt(NEAR / kl)) if kl > 0 else 1.0
    sides = []
    for by in (step, -step):
        with moved(lab, {name: by * e for name, e in error.items()}):
            sides.append(lab.losses_now())
    return [(0.5 * (a + b) - c) / step**2 for a, b, c in zip(*sides, before, strict=True)]


def monte_carlo(lab: Lab, asked: Asked, chosen: Errors) -> list[float]:
    """1/2 [L(w + z) + L(w - z)] - L for noise of each matrix's mean squared error."""
    if not asked.samples:
        return []
    source = torch.Generator().manual_seed(asked.seed + 2)
    loss, found = lab.loss_of_few(), []
    for _ in range(asked.samples):
        z = {
            n: math.sqrt(float(e.square().mean())) * torch.randn(e.shape, generator=source)
            for n, e in chosen.items()
        }
        sides = []
        for sign in (1.0, -1.0):
            with moved(lab, {n: sign * v for n, v in z.items()}):
                sides.append(lab.loss_of_few())
        found.append(0.5 * sum(sides) - loss)
    return found
