"""Measures the cost of a study's configurations with nothing else running.

Runs that shared the machine, or that were too short, have times that say little.
"""

from __future__ import annotations

from collections.abc import Callable

from lowbit.core.errors import LowbitError
from lowbit.core.execution import Execution
from lowbit.core.spec import RunSpec
from lowbit.runs import isolated_cost
from lowbit.runs.run_cost import RunCost
from lowbit.runs.store import ResultsFolder
from lowbit.runs.workers.process import call
from lowbit.study.study import Study


def measure_isolated_costs(
    study: Study, execution: Execution, on_note: Callable[[str], None]
) -> None:
    """Measure the isolated cost of each configuration that needs one."""

    def probe(run: RunSpec, execution: Execution, timed: bool) -> RunCost:
        return call(measure_run, run, execution, timed)

    results = ResultsFolder(study.results)
    for run in study.runs:
        finished = results.find(run.name)
        if finished is None or run.plan.adapter:
            continue
        if not isolated_cost.needs_measurement(finished.record, finished.isolated_cost):
            continue
        on_note(f"isolated cost  {isolated_cost.configuration_name(run.name, run.seed)}")
        try:
            cost = isolated_cost.measure_isolated_cost(probe, run, execution)
            isolated_cost.write_isolated_cost(study.run_folder(run), run, cost)
        except LowbitError as error:
            on_note(f"  not measured: {error}")


def measure_run(run: RunSpec, execution: Execution, timed: bool = True) -> RunCost:
    """Measure the cost of a run. Called in a separate process."""
    from lowbit.runs.dry_run import measure_cost

    return measure_cost(run, execution, timed)
