"""lowbit.cli.child_process"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, cast

from lowbit.core.execution import Execution
from lowbit.core.spec import DEMO_MODEL, RunSpec
from lowbit.runs.check import IN_A_STUDY, check_runs
from lowbit.runs.run_cost import RunCost
from lowbit.runs.workers.process import call, orphaned
from lowbit.study.study import Study


def _execution(study: Study, device: str | None) -> Execution:
    return replace(study.execution, device=cast(Any, device)) if device else study.execution


def _checked(study: Study, execution: Execution, instead: str = IN_A_STUDY) -> Execution:
    """Everything checked before anything runs; what `compute = "auto"` means, measured once."""
    return replace(execution, measured=call(check_runs, study.runs, execution, instead))


def _make_models(study: Study) -> None:
    """Models that are made, not found: the demo's."""
    if any(run.model == DEMO_MODEL for run in study.runs):
        call(make_model, DEMO_MODEL, sys.stderr.isatty())


def make_model(reference: str, shown: bool) -> str:
    """In a process: make sure a model is there."""
    from lowbit.core.progress import bar
    from lowbit.runs.demo_model import model_folder

    with bar("pretraining demo:tiny", shown, stop=orphaned) as watcher:
        return str(model_folder(reference, watcher))


def measure_run(run: RunSpec, execution: Execution, timed: bool = True) -> RunCost:
    """Measure what a run costs; runs in a process of its own."""
    from lowbit.runs.dry_run import measure_cost

    return measure_cost(run, execution, timed)
