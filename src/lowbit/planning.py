"""A plan under a budget: solved on calibration text, then held against uniform plans on other text.

Predicted costs were chosen for being low, so the plan that is best by them is a little worse than
they say. A few solutions (by different predictors, with different trust in what ranks take back)
are therefore run, untrained, on the selection part, which nothing was costed on, and every uniform
plan of the budget with them: what is returned is never worse there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lowbit import preflight
from lowbit.errors import UserError
from lowbit.evaluations import Evaluation, evaluated
from lowbit.execution import Execution
from lowbit.lab import Told
from lowbit.measuring import table_of
from lowbit.plan.controls import controls
from lowbit.plan.joint import FULL, as_plan, limit_of, options, second_order, uniform
from lowbit.plan.search import Choices, Solution, frontier, solve
from lowbit.quant.formats import bits_of, parse
from lowbit.quant.ledger import activations
from lowbit.ready import Prepared, plan_sites, prepare_run
from lowbit.sensitivity import Asked, Prediction, SensitivityTable, predictions
from lowbit.spec import Plan, RunSpec
from lowbit.stats import Gap, paired_gap


@dataclass(frozen=True)
class Wanted:
    """What is asked for: bytes at rest, peak bytes in training (0: any), what to choose from."""

    stored: int
    training: int
    formats: tuple[str, ...]
    ranks: tuple[int, ...]
    tokens: int
    at: Path | None = None
    controls: int = 0
    """Random plans among the controls that are made too; 0: no controls."""
    seed: int = 0


@dataclass(frozen=True)
class Candidate:
    """A plan, what it was predicted to cost; loss and gap on text that nothing was costed on."""

    plan: Plan
    solution: Solution
    loss: float
    gap: Gap


@dataclass(frozen=True)
class Planned:
    """The candidates, the best first.

    `other`: bytes of what is no site. `whole`: whether even 16 bits and the largest ranks fit.
    `predictions`: of the best one, all sites stored at once. `least`: second-order damage that no
    code of the best one's bytes could avoid, and `closed` what rounding pays by the same measure.
    """

    candidates: tuple[Candidate, ...]
    other: int
    whole: bool
    predictions: Mapping[str, Prediction]
    least: float
    closed: float
    corners: tuple[tuple[int, float], ...]
    uniform: tuple[tuple[str, int, float], ...]
    controls: tuple[tuple[Plan, Solution], ...] = ()


def planned(spec: RunSpec, execution: Execution, wanted: Wanted, told: Told) -> Planned:
    """Solve, then choose among the best few by their loss on the selection part."""
    asked = Asked(wanted.formats, wanted.ranks, uniform=False)
    table = table_of(spec, execution, asked, wanted.tokens, told, wanted.at)
    start = prepare_run(spec)
    other = plan_sites(spec.plan, start.checkpoint, start.task.kind, len(start.data.labels)).other[
        1
    ]
    choices = options(table, (*wanted.formats, FULL), wanted.ranks)
    limits = (
        wanted.stored - other,
        _for_states(wanted, start, spec, table, other, execution.checkpointing),
    )
    even = _uniform(choices, table, wanted)
    fitting = {n: s for n, s in even.items() if _fits(s, limits)}
    most = sum(max(option.stored for option in each) for each in choices.values())
    found = {} if most <= limits[0] else _solved(table, choices, wanted, limits, other)
    tried = _tried(spec, execution, {**found, **fitting}, wanted, told)
    best = tried[0]
    return Planned(
        candidates=tuple(tried),
        other=other,
        whole=most <= limits[0],
        predictions=_foretold(spec, execution, wanted, best.solution, told),
        least=limit_of(table, best.solution),
        closed=second_order(table, best.solution),
        corners=tuple((s.stored + other, s.cost) for s in frontier(choices)),
        uniform=tuple((n, s.stored + other, s.cost) for n, s in even.items()),
        controls=_controls(choices, found, even, limits, wanted),
    )


def _controls(
    choices: Choices,
    found: Mapping[str, Solution],
    even: Mapping[str, Solution],
    limits: tuple[int, int | None],
    wanted: Wanted,
) -> tuple[tuple[Plan, Solution], ...]:
    """The plan that was solved for first, then what it is to be held against."""
    if not wanted.controls or "planned" not in found:
        return ()
    best = found["planned"]
    made = controls(choices, best, even, limits, wanted.controls, wanted.seed)
    return tuple((as_plan(s, n), s) for n, s in {"planned": best, **made}.items())


def _solved(
    table: SensitivityTable,
    choices: Choices,
    wanted: Wanted,
    limits: tuple[int, int | None],
    other: int,
) -> dict[str, Solution]:
    """The exact plan, and those that a doubter of its costs would have made."""
    try:
        found = {"planned": solve(choices, *limits)}
    except UserError as error:
        raise UserError(f"{error} (besides {other:,} of norms and biases)") from None
    doubts = {
        "planned, K-FAC alone": options(table, (*wanted.formats, FULL), wanted.ranks, "kfac"),
        "planned, half the trust in ranks": options(
            table, (*wanted.formats, FULL), wanted.ranks, trust=0.5
        ),
    }
    for name, costed in doubts.items():
        solution = solve(costed, *limits)
        same = {(o.site, o.format, o.rank): o for each in choices.values() for o in each}
        recosted = tuple(same[o.site, o.format, o.rank] for o in solution.options)
        if recosted not in [s.options for s in found.values()]:
            found[name] = Solution(recosted, found["planned"].bound)
    return found


def _for_states(
    wanted: Wanted,
    start: Prepared,
    spec: RunSpec,
    table: SensitivityTable,
    other: int,
    checkpointing: bool,
) -> int | None:
    """What a peak leaves for packed matrices and adapters' states: it also holds one decoded
    matrix, activations, and what is no site."""
    if not wanted.training:
        return None
    config, train = start.checkpoint.config, spec.train
    window = max(len(e.ids) for part in start.data.parts.values() for e in part)
    tokens = max(train.batch * window, train.token_budget)
    shape = preflight.shape_of(config)
    if start.task.kind == "classification":
        shape = replace(shape, vocabulary=0)
    acts = activations(shape, tokens, 4, checkpointing)
    decoded = 4 * max(a * b for a, b in (site.shape for site in table.sites))
    left = wanted.training - other - acts - decoded
    if left <= 0:
        raise UserError(
            f"{wanted.training:,} bytes in training: activations of a step alone take {acts:,} and "
            f"a decoded matrix {decoded:,}; a smaller batch or window is needed first"
        )
    return left


def _uniform(choices: Choices, table: SensitivityTable, wanted: Wanted) -> dict[str, Solution]:
    """Every format and rank for all matrices alike."""
    adapted = {site.name: site.reach is not None for site in table.sites}
    found = {}
    for text in (*wanted.formats, FULL):
        for rank in wanted.ranks:
            solution = uniform(choices, adapted, text, rank)
            if solution is not None:
                found[f"uniform {text} r{rank}"] = solution
    return found


def _fits(solution: Solution, limits: tuple[int, int | None]) -> bool:
    return solution.stored <= limits[0] and (limits[1] is None or solution.training <= limits[1])


def _tried(
    spec: RunSpec,
    execution: Execution,
    found: Mapping[str, Solution],
    wanted: Wanted,
    told: Told,
) -> list[Candidate]:
    """The best first. Of uniform plans in one format, alike before training, the largest rank."""
    plain = replace(spec, plan=Plan("16", FULL, FULL))
    sixteen = evaluated(plain, execution, "selection", wanted.at)
    kept: dict[str, tuple[str, Solution]] = {}
    for name, solution in found.items():
        kept[name.rsplit(" r", 1)[0] if name.startswith("uniform") else name] = (name, solution)
    tried = []
    for i, (name, solution) in enumerate(kept.values()):
        told("candidates", i, len(kept))
        plan = as_plan(solution, name)
        scored = evaluated(replace(spec, plan=plan), execution, "selection", wanted.at)
        tried.append(Candidate(plan, solution, scored.loss, _gap(scored, sixteen)))
    told("candidates", len(kept), len(kept))
    # Ties go to the plan that was solved for, which is the first.
    return sorted(tried, key=lambda candidate: candidate.loss)


def _gap(one: Evaluation, two: Evaluation) -> Gap:
    """How much worse one is in the task's metric."""
    sides = (one.sums, one.counts, two.sums, two.counts)
    if one.better == "higher":
        sides = (*sides[2:], *sides[:2])
    return paired_gap(*sides, one.documents, np.random.default_rng(0))


def _foretold(
    spec: RunSpec, execution: Execution, wanted: Wanted, solution: Solution, told: Told
) -> dict[str, Prediction]:
    """The best plan's gap by every predictor, all its sites stored at once."""
    chosen = tuple((o.site, o.format) for o in solution.options if bits_of(parse(o.format)) < 16)
    if not chosen:
        return {}
    formats = tuple(dict.fromkeys(text for _, text in chosen))
    asked = Asked(formats, wanted.ranks, joint=(("planned", chosen),), uniform=False)
    table = table_of(spec, execution, asked, wanted.tokens, told, wanted.at)
    return predictions(table.whole["planned"])
