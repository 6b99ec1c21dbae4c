"""Many sites stored in few bits at once: where the cross terms show, and the model is run.

The closed forms (Taylor at the real error, Gauss-Newton, Hutchinson) cost second derivatives; KL
and Monte Carlo run the stored or a noisy model on the calibration text, and say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from lowbit import curvature, hessian
from lowbit.lab import HESSIAN, NEWTON, Errors, Lab, Told, moved
from lowbit.sensitivity import Asked, Joint, Whole
from lowbit.traces import Known, mean, standard_error


def jointly(
    lab: Lab,
    asked: Asked,
    known: Known,
    choices: Sequence[Joint],
    blocks: Mapping[str, list[float]],
    told: Told,
) -> dict[str, Whole]:
    """What every choice does, by its name. `blocks`: e'He in every one of the few sequences, of all
    block matrices in one format."""
    found = {}
    before = lab.losses(known.logits)
    names = {site.name for site in lab.blocks}
    for i, (name, formats) in enumerate(choices):
        told("choices", i, len(choices))
        chosen = {site: lab.error(site, text) for site, text in formats}
        even = {text for _, text in formats} if set(chosen) == names else set()
        curved = blocks[even.pop()] if len(even) == 1 and even <= set(blocks) else None
        found[name] = _whole(lab, asked, known, before, chosen, curved)
    told("choices", len(choices), len(choices))
    return found


def _whole(
    lab: Lab,
    asked: Asked,
    known: Known,
    before: Sequence[float],
    chosen: Errors,
    curved: list[float] | None,
) -> Whole:
    units = known.curvature.units
    held = {
        s.name: chosen[s.name] if s.name in chosen else torch.zeros_like(lab.weight(s.name))
        for s in lab.sites
    }
    if curved is None:
        curved = hessian.products(lab.model, lab.sites, lab.few, held, lab.kind).sums
        lab.worked(HESSIAN, few=True)
    newton = hessian.gauss_newton(lab.model, lab.sites, lab.few, held, lab.kind)
    lab.worked(NEWTON, few=True)
    with moved(lab, chosen):
        after, kl = lab.beside(known.logits)
    apart = [b - a for a, b in zip(before, after, strict=True)]
    samples = monte_carlo(lab, asked, chosen)
    traces = [
        sum(known.traces.cost(name, e, i) for name, e in chosen.items())
        for i in range(asked.samples)
    ]
    gradient = known.curvature.gradient
    return Whole(
        weight_error=sum(float(e.square().sum()) for e in chosen.values()),
        first_order=sum(float((gradient[n] * e).sum()) for n, e in chosen.items()),
        fisher=sum(curvature.fisher_cost(known.curvature.fisher[n], e) for n, e in chosen.items()),
        kfac=sum(curvature.kfac_cost(known.curvature.factors[n], e) for n, e in chosen.items()),
        taylor=0.5 * sum(curved) / sum(sum(batch.labels) for batch in lab.few),
        gauss_newton=newton,
        hutchinson=mean(traces),
        hutchinson_spread=standard_error(traces),
        kl=sum(kl) / units,
        kl_spread=lab.spread(kl),
        loss=sum(apart) / units,
        loss_spread=lab.spread(apart),
        monte_carlo=mean(samples),
        monte_carlo_spread=standard_error(samples),
        # Where the few are all, the spread of what was lost holds it.
        curved_spread=0.5 * lab.spread_of_few(curved) if lab.curved else 0.0,
    )


def monte_carlo(lab: Lab, asked: Asked, chosen: Errors) -> list[float]:
    """1/2 [L(w + z) + L(w - z)] - L for noise of each matrix's mean squared error."""
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
