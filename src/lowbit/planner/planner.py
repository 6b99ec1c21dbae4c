"""A plan under a budget: solved on calibration text, then held against uniform plans on other text.

Predicted costs were chosen for being low, so the plan that is best by them is a little worse than
they say. A few solutions (with different trust in what ranks do) are therefore run, untrained, on
the selection part, which nothing was costed on, and the best uniform plans of the budget with them.
What counts is what training should leave of the damage seen there: what is returned is by this
never worse than the best of the uniform plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec
from lowbit.planner.budget import Room, check, check_ahead, room_for
from lowbit.planner.controls import controls
from lowbit.planner.knapsack import Choices, Solution
from lowbit.planner.options import (
    FULL,
    Belief,
    as_plan,
    expected,
    limit_of,
    options,
    second_order,
    uniform,
)
from lowbit.planner.request import Wanted
from lowbit.planner.search import frontier, solve
from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.cached import Apart, apart, table_of
from lowbit.sensitivity.measured_model import Told
from lowbit.sensitivity.predictors import Prediction, predictions
from lowbit.sensitivity.table import Asked, Basis, SensitivityTable

UNIFORM = 8
"""Uniform plans that are run, the best by prediction first."""


@dataclass(frozen=True)
class Candidate:
    """A plan, what it was predicted to cost, and what it did on text that nothing was costed on.

    `left`: nats above 16 bits at the largest rank that training should leave, by what was seen
    there and what its ranks are predicted to do.
    """

    plan: Plan
    solution: Solution
    there: Apart
    left: float


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
    basis: Basis
    controls: tuple[tuple[Plan, Solution], ...] = ()
    overhead: int = 0


def planned(spec: RunSpec, execution: Execution, wanted: Wanted, told: Told) -> Planned:
    """Solve, then choose among the best few by what they do on the selection part."""
    check_ahead(spec, wanted)
    ranks = _measured(wanted.ranks)
    asked = Asked(wanted.formats, ranks, samples=0, uniform=False, exact=False, costed=True)
    table = table_of(spec, execution, asked, wanted.tokens, told, wanted.at)
    room = room_for(spec, execution, wanted, table)
    even = _uniform(room.choices, table, wanted)
    if room.whole:
        tried = _tried(spec, {"16 bits": room.most}, wanted, told)
        held = tried
    else:
        check(room, wanted)
        found = _solved(table, room, wanted)
        tried = _tried(spec, {**found, **_best_of(even, room)}, wanted, told)
        held = [one for one in tried if one.plan.name.startswith("uniform")]
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
        basis=table.basis,
        controls=() if room.whole else _controls(room, found["planned"], held, wanted),
        overhead=room.overhead,
    )


def _measured(ranks: tuple[int, ...]) -> tuple[int, ...]:
    """What is measured, whatever is chosen from: one table serves many questions."""
    return tuple(sorted({*Asked.ranks, *ranks}))


def _controls(
    room: Room, best: Solution, held: Sequence[Candidate], wanted: Wanted
) -> tuple[tuple[Plan, Solution], ...]:
    """The plan that was solved for first, then what it is to be held against."""
    if not wanted.controls:
        return ()
    even = held[0].solution if held else None
    made = controls(room.choices, best, even, room.limits, wanted.controls, wanted.seed)
    return tuple((as_plan(s, n), s) for n, s in {"planned": best, **made}.items())


def _solved(table: SensitivityTable, room: Room, wanted: Wanted) -> dict[str, Solution]:
    """The exact plan, and those that a doubter of its costs would have made."""
    found = {"planned": solve(room.choices, *room.limits)}
    if wanted.untrained:
        doubts = {"planned, by Fisher": Belief("fisher", 0.0, 0.0)}
    else:
        doubts = {
            "planned, ranks take back half": Belief(taken=0.5),
            "planned, ranks win half": Belief(worth=0.5),
            "planned, as if untrained": Belief(taken=0.0, worth=0.0),
        }
    same = {(o.site, o.format, o.rank): o for each in room.choices.values() for o in each}
    for name, belief in doubts.items():
        costed = options(table, (*wanted.formats, FULL), wanted.ranks, belief)
        solution = solve(costed, *room.limits)
        recosted = tuple(same[o.site, o.format, o.rank] for o in solution.options)
        if recosted not in [s.options for s in found.values()]:
            found[name] = Solution(recosted, found["planned"].bound)
    return found


def _uniform(choices: Choices, table: SensitivityTable, wanted: Wanted) -> dict[str, Solution]:
    """Every format and rank for all block matrices, with every format for the embeddings."""
    adapted = {site.name: site.reach is not None for site in table.sites}
    found = {}
    for text in (*wanted.formats, FULL):
        for rank in wanted.ranks:
            for embedding in dict.fromkeys((text, *wanted.formats, FULL)):
                solution = uniform(choices, adapted, text, rank, embedding)
                beside = "" if embedding == text else f" and {embedding}"
                if solution is not None:
                    found[f"uniform {text}{beside} r{rank}"] = solution
    return found


def _best_of(even: Mapping[str, Solution], room: Room) -> dict[str, Solution]:
    """The uniform plans that fit and are predicted to cost least, in one or two formats."""
    fitting = {name: s for name, s in even.items() if s.fits(*room.limits)}
    return dict(sorted(fitting.items(), key=lambda item: item[1].cost)[:UNIFORM])


def _tried(
    spec: RunSpec, found: Mapping[str, Solution], wanted: Wanted, told: Told
) -> list[Candidate]:
    """The best first. Ties go to the plan that was solved for, which is the first."""
    formats = {
        name: {o.site: o.format for o in s.options if bits_of(parse(o.format)) < 16}
        for name, s in found.items()
    }
    there = apart(spec, formats, wanted.tokens, told, wanted.at)
    tried = [
        Candidate(as_plan(s, name), s, there[name], expected(s, there[name].kl))
        for name, s in found.items()
    ]
    return sorted(tried, key=lambda one: one.left)


def _foretold(
    spec: RunSpec, execution: Execution, wanted: Wanted, solution: Solution, told: Told
) -> dict[str, Prediction]:
    """The best plan's gap by every predictor, all its sites stored at once."""
    chosen = tuple((o.site, o.format) for o in solution.options if bits_of(parse(o.format)) < 16)
    if not chosen:
        return {}
    formats = tuple(dict.fromkeys(text for _, text in chosen))
    joint = (("planned", chosen),)
    asked = Asked(formats, (1,), samples=0, joint=joint, uniform=False, exact=False)
    table = table_of(spec, execution, asked, wanted.tokens, told, wanted.at)
    return predictions(table.whole["planned"])
