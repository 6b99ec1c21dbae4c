"""Predicted gaps from a sensitivity table: every predictor with its error, and which one to trust.

No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.table import JointDamage, OutputChange, Predictor, SensitivityTable


@dataclass(frozen=True)
class Prediction:
    """A gap to 16 bits in nats, first order included, and its standard error over documents."""

    predictor: str
    gap: float
    spread: float
    runs_model: bool
    """True if it runs the stored model or a noisy one on calibration text; false for formulas."""

    @property
    def low(self) -> float:
        return self.gap - 1.96 * self.spread

    @property
    def high(self) -> float:
        return self.gap + 1.96 * self.spread


@dataclass(frozen=True)
class PredictedPlan:
    """A plan that was predicted: the formats of its sites below 16 bits, and its ranks."""

    name: str
    formats: dict[str, str]
    ranks: dict[str, int]


@dataclass(frozen=True)
class PlanPredictions:
    """A table with one entry in `whole` for each plan."""

    table: SensitivityTable
    plans: tuple[PredictedPlan, ...]


NAMES = {
    "fisher": "Fisher diagonal",
    "kfac": "K-FAC",
    "hutchinson": "Hutchinson",
    "taylor": "Taylor, real eps",
    "gauss_newton": "Gauss-Newton",
    "monte_carlo": "Monte Carlo",
    "kl": "KL of the outputs",
    "loss": "the loss itself",
}
RUN = ("monte_carlo", "kl", "loss")
"""The predictors that run the stored model or a noisy one."""
ON_SUBSET = ("gauss_newton", "hutchinson", "monte_carlo")
"""The predictors that use a subset of the sequences, where a subset was requested."""


def predictions(damage: JointDamage, share: float = 1.0) -> dict[str, Prediction]:
    """The gap by every predictor, where training leaves `share` of the second order.

    The first order stays. The standard error adds up three sources: documents, draws (Hutchinson,
    Monte Carlo), and the subset of documents used for second derivatives and noise. The first
    order's error over documents is the part of the loss's error that the KL's does not explain; the
    errors of second order shrink with `share`.
    """
    by_name = {}
    first = math.sqrt(max(0.0, damage.loss_spread**2 - damage.kl_spread**2))
    for name in NAMES:
        if getattr(damage, name) is None:
            continue
        second = getattr(damage, name) - (damage.first_order if name == "loss" else 0.0)
        over_draws = (
            getattr(damage, f"{name}_spread", 0.0) if name in ("hutchinson", "monte_carlo") else 0
        )
        over_subset = damage.curved_spread if name in ON_SUBSET else 0.0
        over = min(damage.loss_spread, damage.kl_spread)
        spread = math.hypot(first, share * over, share * over_draws, share * over_subset)
        gap = damage.first_order + share * second
        by_name[name] = Prediction(name, gap, spread, name in RUN)
    return by_name


def plan_damage(
    table: SensitivityTable, formats: Mapping[str, str], change: OutputChange
) -> JointDamage:
    """A plan's damage by the formulas of a table, and as it was measured by running it."""
    sites = {site.name: site.damages for site in table.sites}
    alone = [sites[name][text] for name, text in formats.items()]
    return JointDamage(
        weight_error=sum(each.weight_error for each in alone),
        first_order=sum(each.first_order for each in alone),
        fisher=sum(each.fisher for each in alone),
        kfac=sum(each.kfac for each in alone),
        taylor=None,
        gauss_newton=None,
        hutchinson=None,
        hutchinson_spread=0.0,
        kl=change.kl,
        kl_spread=change.kl_spread,
        loss=change.loss,
        loss_spread=change.loss_spread,
        monte_carlo=None,
        monte_carlo_spread=0.0,
    )


def remaining_share(
    table: SensitivityTable,
    formats: Mapping[str, str],
    ranks: Mapping[str, int],
    least: float = 0.0,
) -> float:
    """The share of a plan's damage that the best corrections of these ranks leave, by K-FAC.

    `least`: the least share that remains at a site with an adapter.
    """
    total = remaining = 0.0
    for site in table.sites:
        if site.name in formats and formats[site.name] in site.damages:
            text = formats[site.name]
            damage, share = max(0.0, site.damages[text].kfac), 0.0
            if site.reach is not None and ranks.get(site.name):
                share = site.reach.absorbed_share(text, ranks[site.name])
            total += damage
            remaining += damage * (max(1 - share, least) if share else 1.0)
    return remaining / total if total else 1.0


def best_formula(text: str) -> Predictor:
    """The formula to trust for a format, by its bits: as measured on small models."""
    return best_formula_at(bits_of(parse(text)))


def best_formula_at(bits: float) -> Predictor:
    """Taylor from three bits on, where second order holds; K-FAC below.

    Below three bits, errors in one direction go beyond second order. K-FAC, which sees whole
    matrices, is then the least wrong of the formulas, but still far off.
    """
    return "taylor" if bits >= 3 else "kfac"
