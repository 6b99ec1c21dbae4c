"""What is known of a model before a run: the damage of every format at every site, what ranks do.

Plain numbers in nats a token, from `measure`; predictions and plans read them. Which predictor to
believe depends on the bits: closed forms leave out what is beyond second order, which matters at
three bits and fewer, where only running the stored model on calibration data tells ("measured").
No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Predictor = Literal[
    "weight_error", "fisher", "kfac", "hutchinson", "taylor", "measured", "anchored"
]
Unit = Literal["token", "sentence"]
UNITS: dict[str, Unit] = {"language": "token", "classification": "sentence"}
LEAST_LEFT = 0.25
"""Of a site's damage, whatever a rank is said to take back. Of what 3 bits were foretold to do
untrained, training left a quarter at rank 32 by the three seeds that this was set from, and a fifth
by six (studies/bounds), where K-FAC promises a tenth. Ternary, which loses nearly all of it, is
costed too high by this."""


Joint = tuple[str, tuple[tuple[str, str], ...]]
"""A name, and the format of every site that is not left in 16 bits."""


@dataclass(frozen=True)
class Asked:
    """What is to be measured. `joint`: choices for many sites at once (`uniformly` makes some).

    `curved`: tokens that second derivatives and noise are taken on (0: all that there are). They
    cost most and vary least; gradients, KL and losses take all. `samples`: of Hutchinson's noise
    and of Monte Carlo's; 0: neither is asked for.
    """

    formats: tuple[str, ...]
    ranks: tuple[int, ...] = (4, 8, 16, 32)
    samples: int = 4
    seed: int = 0
    walk: bool = False
    joint: tuple[Joint, ...] = ()
    uniform: bool = True
    """Also every format in all block matrices at once."""
    curved: int = 0
    exact: bool = True
    """Also Taylor's term of every site by itself: what is said of whole plans does without."""
    costed: bool = False
    """Also what plans are costed on: damage as running the stored model scales it, ranks' worth."""


@dataclass(frozen=True)
class Damage:
    """What storing one site in one format does, all else in full precision.

    `weight_error` is |e|^2, the rest nats a token: `first_order` g'e; `fisher`, `kfac`,
    `hutchinson` (with the standard error of its draws) and `taylor` (None: not asked for) are of
    second order, and `taylor` holds half of a site's cross terms with others. By a walk alone, else
    None: `measured` is the KL of the outputs plus the first order; `taylor_alone`, without cross
    terms, `gauss_newton` and `monte_carlo` are of second order. `anchored` is K-FAC's, scaled so
    that block matrices together come to the KL that was measured of all in this format.
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


@dataclass(frozen=True)
class Reach:
    """What rank does at a site: `absorbed[format][i]` of the damage at rank `ranks[i]` is taken
    back by the best correction of that rank, and `gains[i]` nats are won for the task (none where
    that was not asked)."""

    ranks: tuple[int, ...]
    absorbed: dict[str, tuple[float, ...]]
    gains: tuple[float, ...] = ()

    def share(self, text: str, rank: int) -> float:
        """What this rank takes back, between measured ranks by straight lines from (0, 0)."""
        values = self.absorbed[text]
        return float(np.interp(rank, (0, *self.ranks), (0.0, *values)))

    def left(self, text: str, rank: int, trust: float = 1.0) -> float:
        """What is expected to stay of the damage, at least a quarter of it."""
        return max(1 - trust * self.share(text, rank), LEAST_LEFT) if trust and rank else 1.0


@dataclass(frozen=True)
class SiteTable:
    """One site: its damages by format, and its reach where it is adapted.

    `variance`: of its weights. `spectra`: eigenvalues of its two K-FAC factors, geometric means of
    equal stretches of them; None where it has no two.
    """

    name: str
    role: str
    depth: int | None
    shape: tuple[int, int]
    damages: dict[str, Damage]
    reach: Reach | None
    variance: float = 0.0
    spectra: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Whole:
    """Several sites stored at once: where cross terms show. `loss` is what was really lost.

    `spread`: standard errors, over draws (Hutchinson, Monte Carlo) or over documents;
    `curved_spread` over those documents that second derivatives were taken on, where not all were.
    """

    weight_error: float
    first_order: float
    fisher: float
    kfac: float
    taylor: float
    gauss_newton: float
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
class Basis:
    """What a table rests on, and what it cost."""

    unit: Unit
    units: int
    documents: int
    passes: float


@dataclass(frozen=True)
class SensitivityTable:
    """A model on a task's calibration text. `passes`: what it cost, in forward passes over it.

    `unit`: what a loss is counted by, tokens or sentences, and `units` how many there were.
    """

    model: str
    task: str
    unit: Unit
    units: int
    loss: float
    passes: float
    sites: tuple[SiteTable, ...]
    whole: dict[str, Whole]
    documents: int = 0
    """That the text is of; of one, errors are over its stretches."""

    @property
    def basis(self) -> Basis:
        return Basis(self.unit, self.units, self.documents, self.passes)

    @property
    def formats(self) -> list[str]:
        return list(self.sites[0].damages) if self.sites else []

    def damage(self, choices: Mapping[str, str], predictor: Predictor) -> float:
        """The sum over sites of what their formats do; a site without one is in full precision."""
        total = 0.0
        for site in self.sites:
            if site.name in choices:
                value = getattr(site.damages[choices[site.name]], predictor)
                if value is None:
                    raise ValueError(f"{site.name} was not measured in {choices[site.name]}")
                total += value
        return total


def to_text(table: SensitivityTable) -> str:
    return json.dumps(asdict(table), indent=1) + "\n"


def from_text(text: str) -> SensitivityTable:
    body: dict[str, Any] = json.loads(text)
    sites = tuple(_site(each) for each in body.pop("sites"))
    whole = {name: Whole(**each) for name, each in body.pop("whole").items()}
    return SensitivityTable(**body, sites=sites, whole=whole)


def _site(body: dict[str, Any]) -> SiteTable:
    reach = body.pop("reach")
    damages = {name: Damage(**each) for name, each in body.pop("damages").items()}
    shape = tuple(body.pop("shape"))
    found = (
        None
        if reach is None
        else Reach(
            tuple(reach["ranks"]),
            {name: tuple(values) for name, values in reach["absorbed"].items()},
            tuple(reach["gains"]),
        )
    )
    spectra = body.pop("spectra")
    if spectra is not None:
        body["spectra"] = tuple(tuple(values) for values in spectra)
    return SiteTable(**body, shape=shape, damages=damages, reach=found)  # type: ignore[arg-type]
