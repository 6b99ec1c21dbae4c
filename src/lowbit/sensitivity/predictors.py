"""What a table of sensitivities says of a gap: by every predictor, with errors, and whom to trust.

No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.table import Predictor, SensitivityTable, Whole


@dataclass(frozen=True)
class Prediction:
    """A gap to 16 bit in nats, first order included, with its standard error over documents."""

    predictor: str
    gap: float
    spread: float
    runs_model: bool
    """Measured by running the stored or a noisy model on calibration text: no closed form."""

    @property
    def low(self) -> float:
        return self.gap - 1.96 * self.spread

    @property
    def high(self) -> float:
        return self.gap + 1.96 * self.spread


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
"""What runs the stored or a noisy model."""
ON_FEW = ("gauss_newton", "hutchinson", "monte_carlo")
"""What is taken on few sequences, where few are asked for."""


def predictions(whole: Whole, share: float = 1.0) -> dict[str, Prediction]:
    """By every predictor, where training leaves a share of the second order: the first stays.

    Errors of draws are added to those of documents, and those of the few documents that second
    derivatives and noise were taken on. The first order's over documents is what the KL's leaves of
    the loss's; what is of second order shrinks with it.
    """
    found = {}
    first = math.sqrt(max(0.0, whole.loss_spread**2 - whole.kl_spread**2))
    for name in NAMES:
        if getattr(whole, name) is None:
            continue
        second = getattr(whole, name) - (whole.first_order if name == "loss" else 0.0)
        drawn = (
            getattr(whole, f"{name}_spread", 0.0) if name in ("hutchinson", "monte_carlo") else 0
        )
        curved = whole.curved_spread if name in ON_FEW else 0.0
        over = min(whole.loss_spread, whole.kl_spread)
        spread = math.hypot(first, share * over, share * drawn, share * curved)
        gap = whole.first_order + share * second
        found[name] = Prediction(name, gap, spread, name in RUN)
    return found


def left(
    table: SensitivityTable,
    formats: Mapping[str, str],
    ranks: Mapping[str, int],
    least: float = 0.0,
) -> float:
    """The share of the damage that the best corrections of these ranks leave, by K-FAC; of an
    adapted site's no less than `least`."""
    total = remaining = 0.0
    for site in table.sites:
        if site.name in formats and formats[site.name] in site.damages:
            text = formats[site.name]
            damage, share = max(0.0, site.damages[text].kfac), 0.0
            if site.reach is not None and ranks.get(site.name):
                share = site.reach.share(text, ranks[site.name])
            total += damage
            remaining += damage * (max(1 - share, least) if share else 1.0)
    return remaining / total if total else 1.0


def trusted(text: str) -> Predictor:
    """Which predictor to believe for a format, by its bits: as measured on small models."""
    return trusted_at(bits_of(parse(text)))


def trusted_at(bits: float) -> Predictor:
    """Second order holds from three bits on. Below, coherent errors go beyond it, and K-FAC, which
    sees whole matrices, is off the least of the closed forms, which is far enough.
    """
    return "taylor" if bits >= 3 else "kfac"
