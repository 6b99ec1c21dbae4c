"""The sensitivity table: the damage of every format at every site, and what ranks can do about it.

Plain numbers in nats per token, measured once per model and task; predictions and plans read them.
No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Predictor = Literal[
    "weight_error", "fisher", "kfac", "hutchinson", "taylor", "measured", "anchored"
]
Unit = Literal["token", "sentence"]
UNITS: dict[str, Unit] = {"language": "token", "classification": "sentence"}
MIN_REMAINING = 0.25
"""The least share of a site's damage that is expected to remain after training, at any rank.

For 3-bit formats at rank 32, training left a quarter of the predicted untrained damage over the
three seeds that this was set from, and a fifth over six seeds (studies/bounds); K-FAC predicts a
tenth. For ternary, training recovers nearly all of it, so ternary's predicted cost is too high.
"""


JointChoice = tuple[str, tuple[tuple[str, str], ...]]
"""A name, and the format of every site that does not stay in 16 bits."""


@dataclass(frozen=True)
class MeasureRequest:
    """What to measure. `joint`: formats for many sites at once (`uniform_choices` makes some).

    `samples`: draws for Hutchinson and for Monte Carlo; 0 leaves both out. `walk`: also measure
    every site alone. `curved`: tokens for second derivatives and noise, which cost the most and
    vary the least (0: all tokens); gradients, KL and losses always use all tokens.
    """

    formats: tuple[str, ...]
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    samples: int = 4
    seed: int = 0
    walk: bool = False
    joint: tuple[JointChoice, ...] = ()
    uniform: bool = True
    """Also every format in all block matrices at once."""
    curved: int = 0
    exact: bool = True
    """Also Taylor's term of every site by itself, which predictions of whole plans do not need."""
    costed: bool = False
    """Also what the planner needs: damage scaled to measured KL, and the gain of each rank."""


@dataclass(frozen=True)
class Calibration:
    """Where to measure: how much text, at which weights.

    `tokens`: tokens of calibration text. `at`: the folder of a finished 16-bit run, whose adapter
    is merged into the weights first. `parts`: the parts of the task's data to take text from; the
    training part is allowed only where nothing is trained.
    """

    tokens: int
    at: Path | None = None
    parts: tuple[str, ...] = ("calibration",)


@dataclass(frozen=True)
class Damage:
    """What storing one site in one format costs, all other sites in full precision.

    `weight_error` is |e|^2; the rest is in nats per token. `first_order` is g'e. `fisher`, `kfac`,
    `hutchinson` (`hutchinson_spread`: standard error over its draws) and `taylor` are of second
    order; None means not requested. `taylor` holds half of a site's cross terms with other sites.
    Only a walk fills the next four: `measured` is the KL of the outputs plus the first order;
    `taylor_alone` (without cross terms), `gauss_newton` and `monte_carlo` are of second order.
    `anchored` is what plans rest on: the KL that was measured with all blocks in this format, or
    with one block at few bits, divided among its matrices (`sensitivity.anchor`).
    `calibrated_share`: what calibrated rounding is expected to leave of it.
    """

    weight_error: float
    first_order: float
    fisher: float
    kfac: float
    hutchinson: float | None
    taylor: float | None = None
    measured: float | None = None
    taylor_alone: float | None = None
    hutchinson_spread: float | None = None
    gauss_newton: float | None = None
    monte_carlo: float | None = None
    anchored: float | None = None
    calibrated_share: float = 1.0


@dataclass(frozen=True)
class RankEffect:
    """What an adapter's rank does at a site.

    `absorbed[format][i]`: the share of the damage that the best correction of rank `ranks[i]`
    recovers. `gains[i]`: the nats that this rank gains on the task (empty if not requested).
    """

    ranks: tuple[int, ...]
    absorbed: dict[str, tuple[float, ...]]
    gains: tuple[float, ...] = ()

    def absorbed_share(self, text: str, rank: int) -> float:
        """The recovered share at any rank, interpolated linearly between measured ranks."""
        values = self.absorbed[text]
        return float(np.interp(rank, (0, *self.ranks), (0.0, *values)))

    def remaining_share(self, text: str, rank: int, trust: float = 1.0) -> float:
        """The share of the damage expected to remain, at least `MIN_REMAINING`.

        `trust`: how much of the predicted recovery is counted.
        """
        if not (trust and rank):
            return 1.0
        return max(1 - trust * self.absorbed_share(text, rank), MIN_REMAINING)


@dataclass(frozen=True)
class SiteTable:
    """One site: its damage by format, and the effect of ranks where it has an adapter.

    `variance`: of its weights. `spectra`: eigenvalues of its two K-FAC factors, as geometric means
    of equally many neighbours; None for a site without two factors.
    """

    name: str
    role: str
    depth: int | None
    shape: tuple[int, int]
    damages: dict[str, Damage]
    reach: RankEffect | None
    variance: float = 0.0
    spectra: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class JointDamage:
    """The damage of several sites stored at once, with all cross terms.

    `loss` is the measured increase in loss.

    Fields in `_spread` are standard errors: over draws for Hutchinson and Monte Carlo, else over
    documents. `curved_spread` is over the documents used for second derivatives, if not all were.
    """

    weight_error: float
    first_order: float
    fisher: float
    kfac: float
    taylor: float | None
    gauss_newton: float | None
    hutchinson: float | None
    hutchinson_spread: float
    kl: float
    kl_spread: float
    loss: float
    loss_spread: float
    monte_carlo: float | None
    monte_carlo_spread: float
    curved_spread: float = 0.0


@dataclass(frozen=True)
class OutputChange:
    """Nats per token between a stored model and the 16-bit one: the KL of their outputs, the
    increase in loss, and the standard errors of both."""

    kl: float
    kl_spread: float
    loss: float
    loss_spread: float


@dataclass(frozen=True)
class Basis:
    """How much text a table was measured on, and what that cost in forward passes."""

    unit: Unit
    units: int
    documents: int
    passes: float


@dataclass(frozen=True)
class SensitivityTable:
    """The sensitivities of a model on a task's calibration text.

    `unit`: what the loss is averaged over, tokens or sentences; `units`: how many there were.
    `passes`: what measuring cost, in forward passes over the text. `documents`: how many documents
    the text comes from; with one, standard errors are over its sequences.
    """

    model: str
    task: str
    unit: Unit
    units: int
    loss: float
    passes: float
    sites: tuple[SiteTable, ...]
    whole: dict[str, JointDamage]
    documents: int = 0

    @property
    def basis(self) -> Basis:
        return Basis(self.unit, self.units, self.documents, self.passes)

    @property
    def formats(self) -> list[str]:
        return list(self.sites[0].damages) if self.sites else []

    def damage(self, formats: Mapping[str, str], predictor: Predictor) -> float:
        """The sum of all sites' damage in these formats; a site without one has none."""
        total = 0.0
        for site in self.sites:
            if site.name in formats:
                value = getattr(site.damages[formats[site.name]], predictor)
                if value is None:
                    raise ValueError(f"{site.name} was not measured in {formats[site.name]}")
                total += value
        return total


def to_text(table: SensitivityTable) -> str:
    return json.dumps(asdict(table), indent=1) + "\n"


def from_text(text: str) -> SensitivityTable:
    body: dict[str, Any] = json.loads(text)
    sites = tuple(_site(row) for row in body.pop("sites"))
    whole = {name: JointDamage(**row) for name, row in body.pop("whole").items()}
    return SensitivityTable(**body, sites=sites, whole=whole)


def _site(body: dict[str, Any]) -> SiteTable:
    reach, spectra = body.pop("reach"), body.pop("spectra")
    shape = tuple(body.pop("shape"))
    damages = {name: Damage(**row) for name, row in body.pop("damages").items()}
    return SiteTable(
        **body,
        shape=shape,
        damages=damages,
        reach=None if reach is None else _rank_effect(reach),
        spectra=None if spectra is None else tuple(tuple(values) for values in spectra),  # type: ignore[arg-type]
    )


def _rank_effect(body: dict[str, Any]) -> RankEffect:
    absorbed = {name: tuple(values) for name, values in body["absorbed"].items()}
    return RankEffect(tuple(body["ranks"]), absorbed, tuple(body["gains"]))
