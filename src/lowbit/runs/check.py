"""lowbit.runs.check"""

from __future__ import annotations

from collections.abc import Sequence

from lowbit.core.execution import Execution
from lowbit.core.spec import DEMO_MODEL, RunSpec

IN_A_STUDY = (
    'in a study, model = "FOLDER" in every [[workload]] that names it, or --set '
    "workload.N.model=FOLDER, where N counts them from 0"
)
"""How a study is given a model's folder."""


def check_runs(runs: Sequence[RunSpec], execution: Execution, instead: str = IN_A_STUDY) -> str:
    """In a process: device, data and every plan against its model, before any run begins.

    Gives what `compute = "auto"` means here, for all of them alike; "" where none asks.
    `instead`: how a model's folder is given, where its name leads nowhere.
    """
    from lowbit.runs.build import plan_sites
    from lowbit.runs.demo_model import blueprint
    from lowbit.runs.device import set_up
    from lowbit.runs.prepare import prepare_run
    from lowbit.tasks.prepare import find

    found = {compute: set_up(execution, compute)[1] for compute in {r.train.compute for r in runs}}
    for run in {(r.model, r.task): r for r in runs}.values():
        if run.model == DEMO_MODEL:
            # Not made yet, perhaps: its shape is known without its weights.
            checkpoint, kind, labels = blueprint(), find(run.task.name, run.task).kind, 2
        else:
            start = prepare_run(run, instead)
            checkpoint, kind, labels = start.checkpoint, start.task.kind, len(start.data.labels)
        for plan in {r.plan: r for r in runs if (r.model, r.task) == (run.model, run.task)}:
            plan_sites(plan, checkpoint, kind, labels)
    return found.get("auto", "")
