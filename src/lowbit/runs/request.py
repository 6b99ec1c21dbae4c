"""Builds one run from plain arguments; settings have the same keys as a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from lowbit.core.errors import UserError, nearest
from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.core.toml import Raw, check, override
from lowbit.plan.file import check_formats, load_plan

SETTING_TABLES = ("train", "task", "plan", "execution")
"""The tables that `--set` may change for a single run."""


Device = Literal["auto", "cpu", "cuda", "mps"]
Settings = Mapping[str, object] | Sequence[str]
"""Overrides of a run: `{"train.lr": 1e-3}`, or `["train.lr=1e-3"]` as for `--set`."""


def setting_lines(settings: Settings) -> list[str]:
    """Settings as lines of `--set`: `KEY=VALUE`, with the value in TOML."""
    if isinstance(settings, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return list(settings)


def single_run(
    model: str | Path, task: str | Path, plan: str | Path | Plan, seed: int, settings: Settings
) -> tuple[RunSpec, Execution]:
    """The run's specification and its execution settings; `settings` has the keys of a study."""
    base_plan = plan if isinstance(plan, Plan) else load_plan(str(plan))
    plan_table = json.loads(json.dumps(asdict(base_plan)))
    raw: Raw = {"train": {}, "task": {"name": str(task)}, "plan": plan_table, "execution": {}}
    override(raw, setting_lines(settings))
    for key in raw:
        if key not in SETTING_TABLES:
            raise UserError(f"--set: unknown key '{key}'.{nearest(key, SETTING_TABLES)}")
    checked_plan = check(Plan, raw["plan"], None, ("plan",))
    check_formats(checked_plan, None, "plan")
    return (
        RunSpec(
            str(model),
            check(TaskSpec, raw["task"], None, ("task",)),
            checked_plan,
            check(TrainSpec, raw["train"], None, ("train",)),
            seed,
        ),
        check(Execution, raw["execution"], None, ("execution",)),
    )


def without_plan(settings: Settings) -> list[str]:
    """Settings of a command that chooses the plan itself; raises if one is a plan's setting."""
    lines = setting_lines(settings)
    for line in lines:
        if line.split("=")[0].split(".")[0].strip() == "plan":
            raise UserError(
                f"--set {line}: this command chooses the plan, so it takes no setting of a plan"
            )
    return lines
