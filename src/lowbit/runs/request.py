"""One run from plain arguments, with the keys of a study."""

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

SINGLE = ("train", "task", "plan", "execution")
"""What `--set` may change of a single run."""


Device = Literal["auto", "cpu", "cuda", "mps"]
Settings = Mapping[str, object] | Sequence[str]
"""Overrides of a run: `{"train.lr": 1e-3}`, or `["train.lr=1e-3"]` as for `--set`."""


def setting_lines(settings: Settings) -> list[str]:
    """Settings as `--set` takes them, `KEY=VALUE` with the value as TOML."""
    if isinstance(settings, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return list(settings)


def single(
    model: str | Path, task: str | Path, plan: str | Path | Plan, seed: int, settings: Settings
) -> tuple[RunSpec, Execution]:
    """One run and how to carry it out; `settings` has the same keys as a study."""
    loaded = plan if isinstance(plan, Plan) else load_plan(str(plan))
    chosen = json.loads(json.dumps(asdict(loaded)))
    raw: Raw = {"train": {}, "task": {"name": str(task)}, "plan": chosen, "execution": {}}
    override(raw, setting_lines(settings))
    for key in raw:
        if key not in SINGLE:
            raise UserError(f"--set: unknown key '{key}'.{nearest(key, SINGLE)}")
    changed = check(Plan, raw["plan"], None, ("plan",))
    check_formats(changed, None, "plan")
    return (
        RunSpec(
            str(model),
            check(TaskSpec, raw["task"], None, ("task",)),
            changed,
            check(TrainSpec, raw["train"], None, ("train",)),
            seed,
        ),
        check(Execution, raw["execution"], None, ("execution",)),
    )


def without_plan(settings: Settings) -> list[str]:
    """Settings of a request that covers every format and rank: none of them is a plan's."""
    lines = setting_lines(settings)
    for line in lines:
        if line.split("=")[0].split(".")[0].strip() == "plan":
            raise UserError(f"--set {line}: there is no plan yet that this would be a setting of")
    return lines
