"""Checks a study's file; each error gives the place and the nearest valid name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowbit.core.errors import UserError, nearest
from lowbit.core.spec import RunSpec, TaskSpec
from lowbit.core.toml import Raw, check, location
from lowbit.plan.file import check_formats, check_rest
from lowbit.plan.named import named
from lowbit.study.claims import check_claims
from lowbit.study.schema import MAIN, StudyFile


def validate(raw: Raw, path: Path | None) -> StudyFile:
    parsed = check(StudyFile, raw, path)
    check(TaskSpec, {"name": "any", **parsed.task}, path, ("task",))
    where = path or "the study"
    for name in ("plans", "workload", "seeds"):
        values = getattr(parsed, name)
        if not values:
            raise UserError(
                f"{location(path, name) or 'the study: '}{name} is empty: nothing to run"
            )
        twice = next((v for v in values if values.count(v) > 1), None)
        if twice is not None and name != "workload":
            raise UserError(f"{location(path, name)}{name} has {twice!r} twice")
    for name, plan in parsed.plan.items():
        check_formats(plan, path, "plan", name)
        check_rest(raw["plan"][name], path, "plan", name)
    for name in parsed.plans:
        try:
            named(name, parsed.plan)
        except UserError as error:
            raise UserError(f"{location(path, 'plans')}{error}") from None
    _check_parts(parsed, path)
    try:
        check_claims(parsed.claim, parsed.question, parsed.declared(), parsed.alpha)
        _check_tasks(parsed)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return parsed


def _check_tasks(parsed: StudyFile) -> None:
    """A claim names only its task, so only one model may run on that task."""
    tasks = [workload.task.display_name for workload in parsed.workload]
    for claim in (*parsed.claim, *parsed.question):
        if tasks.count(claim.task) > 1:
            raise UserError(
                f"claim '{claim.text}': several models run on '{claim.task}': give their "
                "tasks different tags"
            )


def _check_parts(parsed: StudyFile, path: Path | None) -> None:
    tasks = [workload.task.display_name for workload in parsed.workload]
    names = [MAIN, *(part.name for part in parsed.part)]
    for i, part in enumerate(parsed.part):
        place = location(path, "part", i, "name")
        if names.count(part.name) > 1:
            raise UserError(f"{place}two parts are called '{part.name}' ('{MAIN}' is the study's)")
        if not part.plans:
            raise UserError(f"{place}part '{part.name}' has no plans")
        for name in part.plans:
            try:
                named(name, parsed.plan)
            except UserError as error:
                raise UserError(f"{location(path, 'part', i, 'plans')}{error}") from None
        if part.control and part.control not in part.plans:
            raise UserError(
                f"{location(path, 'part', i, 'control')}control '{part.control}' is none of its "
                "plans."
                f"{nearest(part.control, part.plans)}"
            )
    for i, forecast in enumerate(parsed.forecast):
        if forecast.part not in names:
            where = location(path, "forecast", i, "part")
            raise UserError(f"{where}no part '{forecast.part}'.{nearest(forecast.part, names)}")
    trained = [workload.task.display_name for workload in parsed.workload if not workload.adapters]
    for i, workload in enumerate(parsed.workload):
        if workload.adapters and workload.adapters not in trained:
            raise UserError(
                f"{location(path, 'workload', i, 'adapters')}no workload '{workload.adapters}' "
                f"that trains adapters.{nearest(workload.adapters, trained)}"
            )
    for where, chosen in (("tasks", parsed.tasks), *(("part", p.tasks) for p in parsed.part)):
        for task in chosen:
            if task not in tasks:
                raise UserError(
                    f"{location(path, where)}no workload '{task}'.{nearest(task, tasks)}"
                )


def check_lenders(runs: Sequence[RunSpec]) -> None:
    """A run that takes another run's adapter needs that run, with the same model, task and seed."""
    names = {run.name for run in runs}
    for run in runs:
        if run.adapter_run is not None and run.adapter_run not in names:
            raise UserError(
                f"plan '{run.plan.name}' takes the adapter of '{run.plan.adapter}', which the "
                f"study does not run on {run.plan.on or run.task.display_name} "
                f"with seed {run.seed}." + nearest(run.plan.adapter, {r.plan.name for r in runs})
            )


def check_no_new_plans(raw: Raw, names: set[str]) -> None:
    for name in raw.get("plan", {}):
        if name not in names and name not in raw["plans"]:
            raise UserError(f"no plan '{name}' in this study.{nearest(name, raw['plans'])}")
