"""Checks every run of a study against its model and data, before any run begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from lowbit.core.execution import Execution
from lowbit.core.spec import DEMO_MODEL, RunSpec

AutoCompute = Literal["", "fp32", "bf16"]
"""What `compute = "auto"` means on a machine."""

IN_A_STUDY = (
    'in a study, model = "FOLDER" in every [[workload]] that names it, or --set '
    "workload.N.model=FOLDER, where N counts them from 0"
)
"""How a study names a model's folder, for error messages."""


def check_runs(
    runs: Sequence[RunSpec], execution: Execution, instead: str = IN_A_STUDY
) -> AutoCompute:
    """Check the device, the data and every plan. Call it in a separate process: it imports torch.

    Returns what `compute = "auto"` means on this machine, or "" where no run uses `auto`.
    `instead`: how a user gives a model's folder; the error for an unknown model says so.
    """
    from lowbit.runs.build import plan_sites
    from lowbit.runs.demo_model import blueprint
    from lowbit.runs.device import open_machine
    from lowbit.runs.prepare import prepare_run
    from lowbit.tasks.prepare import find_task

    declared = {r.train.compute for r in runs}
    # `int8` computes its other products as `auto` would.
    declared |= {"auto"} if "int8" in declared else set()
    settled = {compute: open_machine(execution, compute).compute for compute in declared}
    for run in {(r.model, r.task): r for r in runs}.values():
        if run.model == DEMO_MODEL:
            # It may not be pretrained yet; its configuration is enough for these checks.
            checkpoint, kind, labels = blueprint(), find_task(run.task.name, run.task).kind, 2
        else:
            prepared = prepare_run(run, instead)
            checkpoint, kind, labels = prepared.checkpoint, prepared.kind, prepared.labels
        for plan in {r.plan: r for r in runs if (r.model, r.task) == (run.model, run.task)}:
            plan_sites(plan, checkpoint, kind, labels)
    return cast(AutoCompute, settled.get("auto", ""))
