"""Claims and questions, which a study declares before its runs.

A claim compares one plan with another on one task. The study's claims (five at most) share its
alpha by Holm's rule. Questions have the same form and no limit in number; they are exploratory. A
claim that can never reach significance with the declared seeds is rejected before any run.
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
"""The fewest seeds from which a bootstrap can infer about other seeds."""
TestName = Literal["bootstrap", "wilcoxon", "t"]
Measure = Literal["metric", "perplexity", "stored", "peak"]


@dataclass(frozen=True)
class Claim:
    """A comparison of `plan` with `than` on `task`.

    `relation`: `better` by more than `margin`, `no worse` than by `margin`, or `equal` within it.
    `margin` is in the measure's unit: nats, a fraction of right answers, bytes. With `relative` it
    is a fraction of the value of `than`.

    `less`: two more plans, whose difference is subtracted. The claim then says that the first plan
    gains more over the second than the third over the fourth. `mean_with`: plans that are averaged
    with `than` before the comparison.
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
    test: TestName = "bootstrap"
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
            right = "bootstrap if there is a margin: the other tests take none"
            raise BadValueError("claim", "test", self.test, right)


def smallest_p(test: TestName, seeds: int) -> float:
    """The smallest two-sided p-value that a test can give with this number of paired seeds."""
    if test == "wilcoxon":
        return min(1.0, 2.0 ** (1 - seeds))
    if test == "t":
        return 0.0 if seeds > 1 else 1.0
    return 0.0 if seeds >= ENOUGH_SEEDS else 1.0


DeclaredSeeds = Mapping[tuple[str, str], frozenset[int]]
"""The declared seeds of every (plan, task) of a study."""


def paired_seeds(claim: Claim, declared: DeclaredSeeds) -> frozenset[int]:
    """The seeds that all plans of a claim are declared with."""
    none: frozenset[int] = frozenset()
    return frozenset.intersection(*(declared.get((n, claim.task), none) for n in claim.plans))


def check_claims(
    claims: Sequence[Claim], questions: Sequence[Claim], declared: DeclaredSeeds, alpha: float
) -> None:
    """Raise if a claim names something that the study does not have, or can never be decided."""
    if len(claims) > MOST_CLAIMS:
        raise UserError(f"{len(claims)} claims; a study has at most {MOST_CLAIMS}")
    for claim in (*claims, *questions):
        _check_names(claim, declared)
    for claim in claims:
        if claim.measure != "metric":
            raise UserError(
                f"claim '{claim.text}': bytes are counted, not tested: declare it as a [[question]]"
            )
        seeds = len(paired_seeds(claim, declared))
        least, share = smallest_p(claim.test, seeds), alpha / len(claims)
        if least > share:
            raise UserError(
                f"claim '{claim.text}': with {seeds} seeds a {claim.test} test cannot go below "
                f"p = {least:.3g}, and {len(claims)} claims at {alpha:g} need {share:.3g}: "
                f"{seeds_needed(claim.test, share)}"
            )


def _check_names(claim: Claim, declared: DeclaredSeeds) -> None:
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
    if not paired_seeds(claim, declared):
        raise UserError(
            f"claim '{claim.text}': no seed of '{claim.task}' has all of "
            f"{', '.join(map(repr, claim.plans))} in this study"
        )


def seeds_needed(test: TestName, share: float) -> str:
    """The number of seeds that a test needs, as advice."""
    seeds = next(n for n in range(1, 65) if smallest_p(test, n) <= share)
    return f"declare {seeds} seeds"
