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

from lowbit.quant.formats import bits_of, parse

Predictor = Literal["weight_error", "fisher", "kfac", "hutchinson", "taylor", "measured"]
CLOSED: tuple[Predictor, ...] = ("fisher", "kfac", "hutchinson", "taylor")


@dataclass(frozen=True)
class Damage:
    """What storing one site in one format does, all else in full precision.

    `weight_error` is |e|^2, the rest nats a token: `first_order` g'e; `fisher`, `kfac`,
    `hutchinson` and `taylor` are of second order; `measured` is the KL of the outputs plus the
    first order, None where the model was not run so.
    """

    weight_error: float
    first_order: float
    fisher: float
    kfac: float
    hutchinson: float
    taylor: float
    measured: float | None = None


@dataclass(frozen=True)
class Reach:
    """What rank does at a site: `absorbed[format][i]` of the damage at rank `ranks[i]` is taken
    back by the best correction of that rank, and `gains[i]` nats are won for the task."""

    ranks: tuple[int, ...]
    absorbed: dict[str, tuple[float, ...]]
    gains: tuple[float, ...]


@dataclass(frozen=True)
class SiteTable:
    """One site: its damages by format, and its reach where it is adapted."""

    name: str
    role: str
    depth: int | None
    shape: tuple[int, int]
    damages: dict[str, Damage]
    reach: Reach | None


@dataclass(frozen=True)
class Whole:
    """All block matrices in one format at once: where cross terms show.

    `spread`: standard errors of Hutchinson's and of Monte Carlo's estimate.
    """

    first_order: float
    taylor: float
    gauss_newton: float
    hutchinson: float
    hutchinson_spread: float
    kl: float
    loss: float
    monte_carlo: float
    monte_carlo_spread: float


@dataclass(frozen=True)
class SensitivityTable:
    """A model on a task's calibration text. `passes`: what it cost, in forward passes over it."""

    model: str
    task: str
    tokens: int
    loss: float
    passes: float
    sites: tuple[SiteTable, ...]
    whole: dict[str, Whole]

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


def trusted(text: str) -> Predictor:
    """Which predictor to believe for a format, by its bits: as measured on small models.

    Second order holds from four bits on; below, coherent errors go beyond it, and K-FAC, which
    sees whole matrices, is off the least of the closed forms.
    """
    bits = bits_of(parse(text))
    return "taylor" if bits >= 4 else "kfac"


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
    return SiteTable(**body, shape=shape, damages=damages, reach=found)  # type: ignore[arg-type]
