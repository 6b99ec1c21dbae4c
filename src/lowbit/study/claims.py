"""Claims and questions: what a study says before it is run.

A claim compares one plan with another on one task. The study's claims (five at most) share its
alpha by Holm's rule. Questions are written alike, may be any number, and decide nothing. A claim
that can never reach significance with the declared seeds is rejected before anything runs.
No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lowbit.core.errors import BadValueError, Bounds, UserError, check_bounds, nearest
from lowbit.core.schedules import STRICT

MOST_CLAIMS = 5
RESAMPLES = 10_000
ENOUGH_SEEDS = 6
"""A bootstrap over fewer seeds says little about other seeds."""
Deciding = Literal["bootstrap", "wilcoxon", "t"]
Measure = Literal["metric", "perplexity", "stored", "peak"]


@dataclass(frozen=True)
class Claim:
    """`plan` is `relation` than `than` on `task`, by at least (`better`) or at most (`no worse`)
    `margin` in the measure's unit: nats, a fraction of right answers, bytes, or with `relative` a
    fraction of what `than` has. `equal`: within the margin either way.

    `less`: two more plans, whose own difference is taken off: does the first plan gain more over
    the second than the third over the fourth? `mean_with`: plans that are
    averaged with `than` before the comparison.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    text: str
    plan: str
    than: str
    task: str
    relation: Literal["better", "no worse", "equal"] = "better"
    margin: float = 0.0
    relative: bool = False
    measure: Measure = "metric"
    test: Deciding = "bootstrap"
    less: tuple[str, ...] = ()
    mean_with: tuple[str, ...] = ()

    @property
    def plans(self) -> tuple[str, ...]:
        return (self.plan, self.than, *self.less, *self.mean_with)

    def __post_init__(self) -> None:
        check_bounds("claim", self, {"margin": Bounds(0)})
        if self.less and (len(self.less) != 2 or self.measure != "metric" or self.relative):
            right = "two plans, with the metric as the measure and no relative margin"
            raise BadValueError("claim", "less", list(self.less), right)
        if self.mean_with and (self.less or self.measure != "metric"):
            right = "without less, with the metric as the measure"
            raise BadValueError("claim", "mean_with", list(self.mean_with), right)
        if self.relation != "better" and not self.margin:
            raise BadValueError("claim", "margin", 0.0, f"above 0 for '{self.relation}'")
        if self.test != "bootstrap" and (self.relation != "better" or self.margin):
            right = "bootstrap where there is a margin: the others ask for any difference"
            raise BadValueError("claim", "test", self.test, right)


def least_p(test: Deciding, seeds: int) -> float:
    """The smallest two-sided p-value that a test can give with so many paired seeds."""
    if test == "wilcoxon":
        return min(1.0, 2.0 ** (1 - seeds))
    if test == "t":
        return 0.0 if seeds > 1 else 1.0
    return 0.0 if seeds >= ENOUGH_SEEDS else 1.0


Declared = Mapping[tuple[str, str], frozenset[int]]
"""The seeds that a study declares of every (plan, task)."""


def paired(claim: Claim, declared: Declared) -> frozenset[int]:
    """The seeds that all plans of a claim are declared with."""
    none: frozenset[int] = frozenset()
    return frozenset.intersection(*(declared.get((n, claim.task), none) for n in claim.plans))


def check_claims(
    claims: Sequence[Claim], questions: Sequence[Claim], declared: Declared, alpha: float
) -> None:
    """Refuse a claim that names something the study does not have, or that can never be decided."""
    if len(claims) > MOST_CLAIMS:
        raise UserError(f"{len(claims)} claims; a study has at most {MOST_CLAIMS}")
    for claim in (*claims, *questions):
        _check_names(claim, declared)
    for claim in claims:
        if claim.measure != "metric":
            raise UserError(
                f"claim '{claim.text}': bytes are counted, not tested: write it as a [[question]]"
            )
        seeds = len(paired(claim, declared))
        least, share = least_p(claim.test, seeds), alpha / len(claims)
        if least > share:
            raise UserError(
                f"claim '{claim.text}': with {seeds} seeds a {claim.test} test cannot go below "
                f"p = {least:.3g}, and {len(claims)} claims at {alpha:g} ask for {share:.3g}: "
                f"{enough(claim.test, share)}"
            )


def _check_names(claim: Claim, declared: Declared) -> None:
    plans, tasks = ({key[i] for key in declared} for i in (0, 1))
    for name in claim.plans:
        if name not in plans:
            raise UserError(
                f"claim '{claim.text}': no plan '{name}' in this study.{nearest(name, plans)}"
            )
    if claim.task not in tasks:
        raise UserError(
            f"claim '{claim.text}': no task '{claim.task}' in this study."
            f"{nearest(claim.task, tasks)}"
        )
    others = (claim.than, *claim.mean_with)
    if claim.plan in others or (claim.less and claim.less[0] == claim.less[1]):
        raise UserError(f"claim '{claim.text}': compares '{claim.plan}' with itself")
    if not paired(claim, declared):
        raise UserError(
            f"claim '{claim.text}': no seed of '{claim.task}' has all of "
            f"{', '.join(map(repr, claim.plans))} in this study"
        )


def enough(test: Deciding, share: float) -> str:
    """How many seeds are needed, in words."""
    seeds = next(n for n in range(1, 65) if least_p(test, n) <= share)
    return f"declare {seeds} seeds"
