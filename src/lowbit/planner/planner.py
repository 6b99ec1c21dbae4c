"""The best plan for a budget: solved on calibration text, then compared on other text.

The solution is run on the calibration text, and solved again where its damage was predicted wrongly
(`remeasure`). Predicted costs were selected for being low, so the plan with the lowest is still a
little worse than predicted. Therefore a few solutions, with different assumptions about what ranks
do, and the best uniform plans are run untrained on the selection part, which no cost was predicted
from. They are ranked by the damage measured there, less what training is expected to recover. So
the returned plan is never worse, by this measure, than the best uniform plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lowbit.core.spec import Plan, Rounding
from lowbit.curvature.measured_model import OnProgress
from lowbit.planner.budget import Headroom, check_headroom, check_smallest_plan, headroom
from lowbit.planner.budget_plan import BudgetPlan, Candidate
from lowbit.planner.controls import controls
from lowbit.planner.knapsack import Choices, Solution
from lowbit.planner.options import (
    FULL_PRECISION,
    converse_bound,
    expected_damage,
    kfac_damage,
    options,
    to_plan,
    uniform_solution,
)
from lowbit.planner.remeasure import ROUNDS, Remeasured, Round, formats_of, remeasured
from lowbit.planner.request import PlanRequest
from lowbit.planner.search import frontier, solve
from lowbit.runs.device import Machine
from lowbit.runs.prepare import Prepared
from lowbit.sensitivity.measure import OutputChanges, output_changes, sensitivity_table
from lowbit.sensitivity.predictors import Prediction, plan_damage, predictions
from lowbit.sensitivity.table import Calibration, MeasureRequest, SensitivityTable

UNIFORM = 2
"""How many uniform plans are run, best predicted first."""
CALIBRATED_ROUNDS = 3
"""How many solutions are run with calibrated rounding, which takes minutes each."""
EVERY = 4
"""Every fourth sequence is enough for the ratios of formats run alone."""


def make_plan(
    prepared: Prepared, machine: Machine, request: PlanRequest, on_progress: OnProgress
) -> BudgetPlan:
    """Solve for the budget, then choose among the best plans by running them on the selection part.

    The plan of the prepared run does not matter.
    """
    check_smallest_plan(prepared, request)
    ranks = tuple(sorted({*MeasureRequest.ranks, *request.ranks}))  # one table serves many requests
    question = MeasureRequest(
        request.formats, ranks, samples=0, uniform=False, exact=False, costed=True
    )
    calibration = Calibration(request.tokens, request.at)
    table = sensitivity_table(prepared, question, calibration, on_progress)
    left = headroom(prepared, machine, request, table)
    rounds: tuple[Round, ...] = ()
    if left.fits_in_full:
        solutions = {"16 bits": left.largest}
        uniform = _uniform(left.choices, table, request)
    else:
        check_headroom(left, request)
        again = _remeasured(prepared, table, left, request, calibration, on_progress)
        request, rounds = replace(request, factors=again.factors), again.rounds
        left = headroom(prepared, machine, request, table)
        uniform = _uniform(left.choices, table, request)
        solutions = {**_solutions(table, left, request, rounds), **_best_of(uniform, left)}
    candidates = _candidates(prepared, solutions, request, on_progress)
    best = candidates[0].solution
    return BudgetPlan(
        request=request,
        candidates=tuple(candidates),
        other=left.other,
        fits_in_full=left.fits_in_full,
        predictions=_predictions(prepared, table, calibration, candidates[0]),
        converse=converse_bound(table, best),
        kfac_damage=kfac_damage(table, best),
        frontier=tuple((s.stored + left.other, s.cost) for s in frontier(left.choices)),
        uniform=tuple((n, s.stored + left.other, s.cost) for n, s in uniform.items()),
        basis=table.basis,
        controls=_controls(left, solutions, candidates, request),
        overhead=left.overhead,
        rounds=rounds,
    )


def _remeasured(
    prepared: Prepared,
    table: SensitivityTable,
    left: Headroom,
    request: PlanRequest,
    calibration: Calibration,
    on_progress: OnProgress,
) -> Remeasured:
    """The solution, run as it will be rounded, and solved again until predicted right."""
    formats = (*request.formats, FULL_PRECISION)

    def options_with(factors: Mapping[str, float]) -> Choices:
        return options(table, formats, request.ranks, replace(request.costs, factors=factors))

    with OutputChanges(prepared, calibration, on_progress) as changes:
        return remeasured(
            formats,
            options_with,
            lambda choices: solve(choices, *left.limits),
            lambda chosen: changes.of(chosen, 1, request.rounding).kl,
            lambda chosen: changes.of(chosen, EVERY, request.rounding).kl,
            lambda done, total: on_progress("solving", done, total),
            CALIBRATED_ROUNDS if request.rounding != "nearest" else ROUNDS,
        )


def _controls(
    left: Headroom,
    solutions: Mapping[str, Solution],
    candidates: Sequence[Candidate],
    request: PlanRequest,
) -> tuple[tuple[Plan, Solution], ...]:
    """The plan that was solved for, then the controls to compare it with."""
    if left.fits_in_full or not request.controls:
        return ()
    best = solutions["planned"]
    uniform = next((c.solution for c in candidates if c.plan.name.startswith("uniform")), None)
    others = controls(left.choices, best, uniform, left.limits, request.controls, request.seed)
    return tuple((to_plan(s, n), s) for n, s in {"planned": best, **others}.items())


def _solutions(
    table: SensitivityTable, left: Headroom, request: PlanRequest, rounds: Sequence[Round]
) -> dict[str, Solution]:
    """The exact plan, and the exact plans under other assumptions about damage and ranks."""
    best = min(rounds, key=lambda each: each.remaining).solution
    solutions = {"planned": _recosted(solve(left.choices, *left.limits), best, left.choices)}
    usual = request.costs
    if request.untrained:
        assumptions = {"planned, by Fisher": replace(usual, predictor="fisher", factors={})}
    else:
        assumptions = {
            "planned, ranks take back half": replace(usual, recovered=0.5),
            "planned, ranks win half": replace(usual, gained=0.5),
            "planned, as if untrained": replace(usual, recovered=0.0, gained=0.0),
        }
    for name, costs in assumptions.items():
        choices = options(table, (*request.formats, FULL_PRECISION), request.ranks, costs)
        solution = solve(choices, *left.limits)
        recosted = _recosted(solutions["planned"], solution, left.choices)
        if recosted.options not in [s.options for s in solutions.values()]:
            solutions[name] = recosted
    return solutions


def _recosted(bounded: Solution, solution: Solution, choices: Choices) -> Solution:
    """A solution with the present costs, and the bound of another one."""
    same = {(o.site, o.format, o.rank): o for each in choices.values() for o in each}
    recosted = tuple(same[o.site, o.format, o.rank] for o in solution.options)
    return Solution(recosted, bounded.bound)


def _uniform(
    choices: Choices, table: SensitivityTable, request: PlanRequest
) -> dict[str, Solution]:
    """Every format and rank for all block matrices, with every format for the embeddings."""
    adapted = {site.name: site.reach is not None for site in table.sites}
    solutions = {}
    for text in (*request.formats, FULL_PRECISION):
        for rank in request.ranks:
            for embedding in dict.fromkeys((text, *request.formats, FULL_PRECISION)):
                solution = uniform_solution(choices, adapted, text, rank, embedding)
                suffix = "" if embedding == text else f" and {embedding}"
                if solution is not None:
                    solutions[f"uniform {text}{suffix} r{rank}"] = solution
    return solutions


def _best_of(uniform: Mapping[str, Solution], left: Headroom) -> dict[str, Solution]:
    """The uniform plans that fit, with the lowest predicted cost."""
    fitting = {name: s for name, s in uniform.items() if s.fits(*left.limits)}
    return dict(sorted(fitting.items(), key=lambda item: item[1].cost)[:UNIFORM])


def _candidates(
    prepared: Prepared,
    solutions: Mapping[str, Solution],
    request: PlanRequest,
    on_progress: OnProgress,
) -> list[Candidate]:
    """The plans, best first by what was measured. Ties go to the plan that was solved for."""
    stored: dict[str, tuple[Solution, Rounding]]
    stored = {name: (solution, request.rounding) for name, solution in solutions.items()}
    if request.rounding != "nearest" and "planned" in solutions:
        stored["planned, nearest rounding"] = solutions["planned"], "nearest"
    selection = Calibration(request.tokens, request.at, ("selection",))
    formats = {name: (formats_of(s), rounding) for name, (s, rounding) in stored.items()}
    changes = output_changes(prepared, formats, selection, on_progress)
    candidates = [
        Candidate(to_plan(s, name, how), s, changes[name], expected_damage(s, changes[name].kl))
        for name, (s, how) in stored.items()
    ]
    return sorted(candidates, key=lambda candidate: candidate.remaining)


def _predictions(
    prepared: Prepared, table: SensitivityTable, calibration: Calibration, best: Candidate
) -> dict[str, Prediction]:
    """The plan's gap by running it on the calibration text, and by the formulas of the table."""
    chosen = formats_of(best.solution)
    if not chosen:
        return {}
    with OutputChanges(prepared, calibration) as measured:
        change = measured.of(chosen, 1, best.plan.rounding)
        return predictions(plan_damage(table, chosen, change))
