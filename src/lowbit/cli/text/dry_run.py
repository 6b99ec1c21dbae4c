"""lowbit.cli.dry_run"""

from __future__ import annotations

import sys
from typing import Any

from rich.table import Table
from rich.text import Text

from lowbit.cli.console import out, say
from lowbit.core.errors import RunError
from lowbit.core.progress import clock
from lowbit.core.spec import RunSpec
from lowbit.runs.check import IN_A_STUDY
from lowbit.runs.request import Device
from lowbit.runs.workers.process import Failure, start
from lowbit.study.execute import check_all_runs, execution_on, make_models
from lowbit.study.isolated_costs import measure_run
from lowbit.study.study import Study


def dry_run(study: Study, device: Device | None, instead: str = IN_A_STUDY) -> None:
    """Exact bytes, and memory and time from ten steps on this machine; nothing is written."""
    execution = check_all_runs(study, execution_on(study, device), instead)
    make_models(study)
    table = Table(title=Text(f"{study.title}: what each run would cost here"), box=None)
    for name in ("run", "seeds", "stored bytes", "train %", "steps", "s/step", "peak MB", "time"):
        words = name != "run"
        table.add_column(name, justify="right" if words else "left", overflow="fold", no_wrap=words)
    seconds, failures = 0.0, []
    cells: dict[Any, list[RunSpec]] = {}
    for run in study.runs:
        if run.plan.adapter:
            continue
        cells.setdefault((run.model, run.task, run.plan, run.train), []).append(run)
    for same in cells.values():
        cost = start(measure_run, same[0], execution).answer()
        name = same[0].name.removesuffix(f"-seed{same[0].seed}")
        if isinstance(cost, Failure):
            table.add_row(name, str(len(same)), *"–––––", "does not run")
            sys.stderr.write(f"error: {name}: {cost.bug}{cost.message}\n")
            failures.append(cost)
            continue
        seconds += cost.total_s * len(same)
        table.add_row(
            name,
            str(len(same)),
            f"{'' if same[0].plan.schedule.kind == 'fixed' else '≤ '}{cost.stored:,}",
            f"{100 * cost.share:.2f}",
            str(cost.steps),
            f"{cost.step_s:.3f}",
            f"{cost.peak_bytes / 1e6:.0f}",
            clock(cost.total_s),
        )
    out().print(table)
    trained = sum(not run.plan.adapter for run in study.runs)
    say(f"all {trained} runs one after another: about {clock(seconds)}.")
    if trained < len(study.runs):
        say(f"{len(study.runs) - trained} more only score what others trained, or the base.")
    say("Stored bytes are exact (≤: before a rank schedule's cuts). Peak (above the idle")
    say("interpreter) and time are measured on ten steps of each plan.")
    if failures:
        error = RunError(f"{len(failures)} of {len(cells)} cells do not run")
        error.exit_code = max(failure.exit_code for failure in failures)
        raise error
