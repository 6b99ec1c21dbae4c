"""A plan under a budget: solved on calibration text, then held against uniform plans on other text.

Predicted costs were chosen for being low, so the plan that is best by them is a little worse than
they say. The best few are therefore run, untrained, on the selection part, which nothing was costed
on, and the best uniform plans of the budget with them: what is returned is never worse there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lowbit.errors import UserError
from lowbit.evaluations import evaluated
from lowbit.measure import Asked
from lowbit.measuring import table_of
from lowbit.plan.joint import FULL, as_plan, options, uniform
from lowbit.plan.search import Choices, Solution, solve
from lowbit.ready import plan_sites, prepare_run
from lowbit.spec import Execution, Plan, RunSpec

UNIFORM = 3
"""Of the uniform plans that fit, so many of the lowest predicted cost are held against it."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for: bytes at rest, bytes in training (0: any), and what may be chosen from."""

    stored: int
    training: int
    formats: tuple[str, ...]
    ranks: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class Candidate:
    """A plan, what it was predicted to cost, and its loss on text that nothing was costed on."""

    plan: Plan
    solution: Solution
    loss: float


@dataclass(frozen=True)
class Planned:
    """The candidates, the best first; `other` bytes are of what is no site."""

    candidates: tuple[Candidate, ...]
    sixteen: float
    other: int
    whole: bool
    """Whether even 16 bits and the largest ranks fit."""


def planned(
    spec: RunSpec, execution: Execution, wanted: Wanted, told: Callable[[str, int, int], None]
) -> Planned:
    """Solve, then choose among the best few by their loss on the selection part."""
    asked = Asked(wanted.formats, wanted.ranks)
    table = table_of(spec, execution, asked, wanted.tokens, told)
    start = prepare_run(spec)
    other = plan_sites(spec.plan, start.checkpoint, start.task.kind, 0).other[1]
    choices = options(table, (*wanted.formats, FULL), wanted.ranks)
    stored = wanted.stored - other
    training = wanted.training - other if wanted.training else None
    try:
        found = {"planned": solve(choices, stored, training)}
    except UserError as error:
        raise UserError(f"{error} (besides {other:,} of norms and biases)") from None
    found |= _uniform(choices, {s.name: s.reach is not None for s in table.sites}, wanted, stored)
    tried = []
    for i, (name, solution) in enumerate(found.items()):
        told("candidates", i, len(found))
        plan = as_plan(solution, name)
        loss = evaluated(replace(spec, plan=plan), execution, "selection").value
        tried.append(Candidate(plan, solution, loss))
    sixteen = evaluated(replace(spec, plan=Plan("16", FULL, FULL)), execution, "selection").value
    most = sum(max(option.stored for option in each) for each in choices.values())
    # Ties go to the plan that was solved for, which is the first.
    ordered = tuple(sorted(tried, key=lambda candidate: candidate.loss))
    return Planned(ordered, sixteen, other, most <= stored)


def _uniform(
    choices: Choices, adapted: dict[str, bool], wanted: Wanted, stored: int
) -> dict[str, Solution]:
    """The uniform plans of the lowest predicted cost that fit."""
    fitting = {}
    for text in (*wanted.formats, FULL):
        for rank in wanted.ranks:
            solution = uniform(choices, adapted, text, rank)
            if solution is None or solution.stored > stored:
                continue
            if not wanted.training or solution.training <= wanted.training:
                fitting[f"uniform {text} r{rank}"] = solution
    best = sorted(fitting, key=lambda name: fitting[name].cost)[:UNIFORM]
    return {name: fitting[name] for name in best}
