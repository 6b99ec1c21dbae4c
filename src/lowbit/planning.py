"""A plan under a budget: solved on calibration text, then held against uniform plans on other text.

Predicted costs were chosen for being low, so the plan that is best by them is a little worse than
they say. A few solutions (by different predictors, with different trust in what ranks take back)
are therefore run, untrained, on the selection part, which nothing was costed on, and every uniform
plan of the budget with them: what is returned is never worse there than the best of those. Among
what is not, that run cannot see what ranks will take back, so it is taken off as it was predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lowbit.evaluations import Evaluation, evaluated
from lowbit.execution import Execution
from lowbit.lab import Told
from lowbit.measuring import table_of
from lowbit.plan.controls import controls
from lowbit.plan.joint import FULL, as_plan, limit_of, options, second_order, uniform
from lowbit.plan.search import Choices, Solution, frontier, solve
from lowbit.quant.formats import bits_of, parse
from lowbit.room import Room, Wanted, check, room_for
from lowbit.sensitivity import Asked, Prediction, SensitivityTable, predictions
from lowbit.spec import Plan, RunSpec
from lowbit.stats import Gap, paired_gap


@dataclass(frozen=True)
class Candidate:
    """A plan, what it was predicted to cost; loss and gap on text that nothing was costed on.

    `taken`: how much of the damage its ranks are predicted to take back in training.
    """

    plan: Plan
    solution: Solution
    loss: float
    gap: Gap
    taken: float = 0.0


@dataclass(frozen=True)
class Planned:
    """The candidates, the best first.

    `other`: bytes of what is no site; `overhead`: in training, of what no choice changes.
    `whole`: whether even 16 bits and the largest ranks fit.
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
    overhead: int = 0


def planned(spec: RunSpec, execution: Execution, wanted: Wanted, told: Told) -> Planned:
    """Solve, then choose among the best few by their loss on the selection part."""
    asked = Asked(wanted.formats, _measured(wanted.ranks), uniform=False)
    table = table_of(spec, execution, asked, wanted.tokens, told, wanted.at)
    room = room_for(spec, execution, wanted, table)
    even = _uniform(room.choices, table, wanted)
    if room.whole:
        found, fitting = {}, {"16 bits": room.most}
    else:
        check(room, wanted)
        found = _solved(table, room, wanted)
        fitting = {n: s for n, s in even.items() if s.fits(*room.limits)}
    tried = _tried(spec, execution, {**found, **fitting}, room, wanted, told)
    best = tried[0]
    return Planned(
        candidates=tuple(tried),
        other=room.beside,
        whole=room.whole,
        predictions=_foretold(spec, execution, wanted, best.solution, told),
        least=limit_of(table, best.solution),
        closed=second_order(table, best.solution),
        corners=tuple((s.stored + room.beside, s.cost) for s in frontier(room.choices)),
        uniform=tuple((n, s.stored + room.beside, s.cost) for n, s in even.items()),
        controls=_controls(room.choices, found, even, room.limits, wanted),
        overhead=room.overhead,
    )


def _measured(ranks: tuple[int, ...]) -> tuple[int, ...]:
    """What is measured, whatever is chosen from: one table serves many questions."""
    return tuple(sorted({*Asked.ranks, *ranks}))


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


def _solved(table: SensitivityTable, room: Room, wanted: Wanted) -> dict[str, Solution]:
    """The exact plan, and those that a doubter of its costs would have made."""
    found = {"planned": solve(room.choices, *room.limits)}
    doubts = {
        "planned, K-FAC alone": options(table, (*wanted.formats, FULL), wanted.ranks, "kfac"),
        "planned, half the trust in ranks": options(
            table, (*wanted.formats, FULL), wanted.ranks, trust=0.5
        ),
    }
    same = {(o.site, o.format, o.rank): o for each in room.choices.values() for o in each}
    for name, costed in doubts.items():
        solution = solve(costed, *room.limits)
        recosted = tuple(same[o.site, o.format, o.rank] for o in solution.options)
        if recosted not in [s.options for s in found.values()]:
            found[name] = Solution(recosted, found["planned"].bound)
    return found


def _uniform(choices: Choices, table: SensitivityTable, wanted: Wanted) -> dict[str, Solution]:
    """Every format and rank for all block matrices; embeddings alike, in 8 bits, and in 16."""
    adapted = {site.name: site.reach is not None for site in table.sites}
    found = {}
    for text in (*wanted.formats, FULL):
        others = [f for f in ("int8@64", FULL) if f in (*wanted.formats, FULL) and f != text]
        for rank in wanted.ranks:
            for embedding in (text, *others):
                solution = uniform(choices, adapted, text, rank, embedding)
                beside = "" if embedding == text else f" and {embedding}"
                if solution is not None:
                    found[f"uniform {text}{beside} r{rank}"] = solution
    return found


def _tried(
    spec: RunSpec,
    execution: Execution,
    found: Mapping[str, Solution],
    room: Room,
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
        gap, taken = _gap(scored, sixteen), room.taken(solution)
        tried.append(Candidate(plan, solution, scored.loss, gap, taken))
    told("candidates", len(kept), len(kept))
    return ranked(tried)


def ranked(tried: Sequence[Candidate]) -> list[Candidate]:
    """By what should be lost after training, behind all that the best uniform plan beats before it.

    Ties go to the plan that was solved for, which is the first.
    """
    even = [one.loss for one in tried if one.plan.name.startswith("uniform")]
    most = min(even, default=math.inf)
    return sorted(tried, key=lambda one: (one.loss > most, one.loss - one.taken))


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
    joint = (("planned", chosen),)
    asked = Asked(formats, _measured(wanted.ranks), joint=joint, uniform=False, exact=False)
    table = table_of(spec, execution, asked, wanted.tokens, told, wanted.at)
    return predictions(table.whole["planned"])
