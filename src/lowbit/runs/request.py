"""One run from the command line, with the keys of a study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from lowbit.core.errors import UserError, nearest
from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.core.toml import Raw, check, override
from lowbit.plan.file import check_formats, load_plan

SINGLE = ("train", "task", "plan", "execution")
"""What `--set` may change of a single run."""


def single(
    model: str, task: str, plan: str, seed: int, settings: Sequence[str]
) -> tuple[RunSpec, Execution]:
    """One run from the command line: the same keys as in a study, for `lowbit adapt`."""
    chosen = json.loads(json.dumps(asdict(load_plan(plan))))
    raw: Raw = {"train": {}, "task": {"name": task}, "plan": chosen, "execution": {}}
    override(raw, settings)
    for key in raw:
        if key not in SINGLE:
            raise UserError(f"--set: unknown key '{key}'.{nearest(key, SINGLE)}")
    changed = check(Plan, raw["plan"], None, ("plan",))
    check_formats(changed, None, "plan")
    return (
        RunSpec(
            model,
            check(TaskSpec, raw["task"], None, ("task",)),
            changed,
            check(TrainSpec, raw["train"], None, ("train",)),
            seed,
        ),
        check(Execution, raw["execution"], None, ("execution",)),
    )
