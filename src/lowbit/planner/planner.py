"""The best plan for a budget: solved on calibration text, then compared on other text.

Predicted costs were selected for being low, so the plan with the lowest is a little worse than
predicted. Therefore a few solutions, with different assumptions about what ranks do, and the best
uniform plans are run untrained on the selection part, which no cost was predicted from. They are
ranked by the damage measured there, less what training is expected to recover. So the returned plan
is never worse, by this measure, than the best uniform plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowbit.core.spec import Plan
from lowbit.planner.budget import Headroom, check_headroom, check_smallest_plan, headroom
from lowbit.planner.budget_plan import BudgetPlan, Candidate
from lowbit.planner.controls import controls
from lowbit.planner.knapsack import Choices, Solution
from lowbit.planner.options import (
    FULL_PRECISION,
    CostModel,
    converse_bound,
    expected_damage,
    kfac_damage,
    options,
    to_plan,
    uniform_solution,
)
from lowbit.planner.request import PlanRequest
from lowbit.planner.search import frontier, solve
from lowbit.quant.formats import bits_of, parse
from lowbit.runs.device import Machine
from lowbit.runs.prepare import Prepared
from lowbit.sensitivity.measure import output_changes, sensitivity_table
from lowbit.sensitivity.measured_model import OnProgress
from lowbit.sensitivity.predictors import Prediction, predictions
from lowbit.sensitivity.table import Calibration, MeasureRequest, SensitivityTable

UNIFORM = 8
"""How many uniform plans are run, best predicted first."""


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
    uniform = _uniform(left.choices, table, request)
    if left.fits_in_full:
        solutions = {"16 bits": left.largest}
    else:
        check_headroom(left, request)
        solutions = {**_solutions(table, left, request), **_best_of(uniform, left)}
    candidates = _candidates(prepared, solutions, request, on_progress)
    best = candidates[0].solution
    return BudgetPlan(
        request=request,
        candidates=tuple(candidates),
        other=left.other,
        fits_in_full=left.fits_in_full,
        predictions=_predictions(prepared, calibration, best, on_progress),
        converse=converse_bound(table, best),
        kfac_damage=kfac_damage(table, best),
        frontier=tuple((s.stored + left.other, s.cost) for s in frontier(left.choices)),
        uniform=tuple((n, s.stored + left.other, s.cost) for n, s in uniform.items()),
        basis=table.basis,
        controls=_controls(left, solutions, candidates, request),
        overhead=left.overhead,
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
    table: SensitivityTable, left: Headroom, request: PlanRequest
) -> dict[str, Solution]:
    """The exact plan, and the exact plans under other assumptions about damage and ranks."""
    solutions = {"planned": solve(left.choices, *left.limits)}
    if request.untrained:
        assumptions = {"planned, by Fisher": CostModel("fisher", 0.0, 0.0)}
    else:
        assumptions = {
            "planned, ranks take back half": CostModel(recovered=0.5),
            "planned, ranks win half": CostModel(gained=0.5),
            "planned, as if untrained": CostModel(recovered=0.0, gained=0.0),
        }
    same = {(o.site, o.format, o.rank): o for each in left.choices.values() for o in each}
    for name, costs in assumptions.items():
        choices = options(table, (*request.formats, FULL_PRECISION), request.ranks, costs)
        solution = solve(choices, *left.limits)
        recosted = tuple(same[o.site, o.format, o.rank] for o in solution.options)
        if recosted not in [s.options for s in solutions.values()]:
            solutions[name] = Solution(recosted, solutions["planned"].bound)
    return solutions


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
    formats = {
        name: {o.site: o.format for o in s.options if bits_of(parse(o.format)) < 16}
        for name, s in solutions.items()
    }
    selection = Calibration(request.tokens, request.at, ("selection",))
    changes = output_changes(prepared, formats, selection, on_progress)
    candidates = [
        Candidate(to_plan(s, name), s, changes[name], expected_damage(s, changes[name].kl))
        for name, s in solutions.items()
    ]
    return sorted(candidates, key=lambda candidate: candidate.remaining)


def _predictions(
    prepared: Prepared,
    calibration: Calibration,
    solution: Solution,
    on_progress: OnProgress,
) -> dict[str, Prediction]:
    """The plan's gap by every predictor, with all its sites stored at once."""
    chosen = tuple((o.site, o.format) for o in solution.options if bits_of(parse(o.format)) < 16)
    if not chosen:
        return {}
    formats = tuple(dict.fromkeys(text for _, text in chosen))
    question = MeasureRequest(
        formats, (1,), samples=0, joint=(("planned", chosen),), uniform=False, exact=False
    )
    table = sensitivity_table(prepared, question, calibration, on_progress)
    return predictions(table.whole["planned"])
