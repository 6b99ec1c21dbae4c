"""A plan under a byte budget, for a model and a task given by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lowbit.core.byte_sizes import parse_bytes
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.spec import Rounding, RunSpec
from lowbit.planner.budget_plan import BudgetPlan
from lowbit.planner.request import PlanRequest
from lowbit.quant.formats import parse
from lowbit.runs.request import Settings, single_run, without_plan
from lowbit.sensitivity.by_name import RANKS, TOKENS, OnProgress, ignore_progress

PLANNED = (
    "int8@row", "int8@64", "int6@64", "int5@64", "nf4@32", "nf4@64", "nf4@128", "nf3@32", "nf3@64",
    "int2@64",
)  # fmt: skip
"""The formats that plans choose among by default: at each size the one that does least damage on a
real model (ADR 27)."""


def plan_for_budget(
    model: str | Path,
    task: str,
    budget: int | str,
    *,
    train_memory: int | str = 0,
    formats: Sequence[str] = PLANNED,
    ranks: Sequence[int] = RANKS,
    tokens: int = TOKENS,
    at: str | Path | None = None,
    controls: int = 0,
    untrained: bool = False,
    rounding: Rounding = "nearest",
    settings: Settings = (),
    on_progress: OnProgress = ignore_progress,
) -> BudgetPlan:
    """Find the best formats and ranks of all sites under a budget of bytes. Trains nothing.

    Args:
        model: A folder, a hub id, `assets:NAME` or `demo:tiny`.
        task: A task's name, or a file of text.
        budget: Stored bytes, such as `12_000_000` or `"12MB"`.
        train_memory: The peak of a training step, such as `"2GB"`; 0 sets no limit.
        formats: The formats to choose among. If the checkpoint lies on a low-bit grid already, the
            format of that grid is added.
        ranks: The ranks to choose among.
        tokens: Tokens of calibration text.
        at: The folder of a finished 16-bit run; its adapter is merged first.
        controls: Random plans of the same size to make, besides the other controls; 0 makes none.
        untrained: Plan for a model that is stored and not trained afterwards.
        rounding: `"calibrated"` and `"two-sided"` round with the task's training text, which costs
            no bytes; each plan that is run takes a few minutes more.
        settings: Overrides like `{"execution.threads": 1}`.
        on_progress: Called with a phase, the steps done and all steps.

    Returns:
        The candidates, the best one first, with their predictions.

    Raises:
        UserError: No plan fits the budget, or an argument is not valid.

    Example:
        >>> from lowbit import plan_for_budget
        >>> planned = plan_for_budget("demo:tiny", "demo", "1MB", formats=["int4@64", "int8@64"],
        ...                           ranks=[4], tokens=256, settings={"execution.threads": 1})
        >>> best = planned.candidates[0]
        >>> best.solution.stored + planned.other <= 1_000_000
        True
    """
    spec, execution = single_run(model, task, "bf16", 0, without_plan(settings))
    for text in formats:
        parse(text)
    if rounding not in (known := get_args(Rounding)):
        raise UserError(f"rounding {rounding!r}: it is one of {', '.join(known)}")
    request = PlanRequest(
        _size(budget),
        _size(train_memory),
        tuple(formats),
        tuple(sorted(set(ranks))),
        tokens,
        None if at is None else Path(at),
        controls,
        untrained=untrained,
        rounding=rounding,
    )
    return _solve(spec, execution, request, on_progress)


def _solve(
    spec: RunSpec, execution: Execution, request: PlanRequest, on_progress: OnProgress
) -> BudgetPlan:
    from dataclasses import replace

    from lowbit.planner.planner import make_plan
    from lowbit.runs.device import open_machine
    from lowbit.runs.prepare import prepare_run
    from lowbit.sensitivity.checkpoint_grid import checkpoint_grid

    machine, prepared = open_machine(execution, spec.train.compute), prepare_run(spec)
    grid = checkpoint_grid(prepared)
    if grid is not None and grid not in request.formats:
        request = replace(request, formats=(*request.formats, grid))
    return replace(make_plan(prepared, machine, request, on_progress), grid=grid)


def _size(value: int | str) -> int:
    return parse_bytes(value) if isinstance(value, str) else value
