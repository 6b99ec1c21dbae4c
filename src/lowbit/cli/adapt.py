"""`lowbit adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowbit.cli.options import (
    DeviceOption,
    ModelArgument,
    PlanOption,
    SetOption,
    TaskOption,
    guarded,
)


@guarded
def adapt(
    model: ModelArgument,
    task: TaskOption,
    plan: PlanOption,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    seed: Annotated[int, typer.Option(min=0, help="Of adapters, data order and dropout.")] = 0,
    settings: SetOption = None,
    device: DeviceOption = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Replace a finished run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run nothing; show bytes, memory and time.")
    ] = False,
) -> None:
    """Fine-tune one model on one task with one plan; leaves a record and a PEFT adapter.

    Settings as in a study: --set train.epochs=1 --set task.limit=2000 --set plan.rank=4

    Example: lowbit adapt demo:tiny --task demo --plan nf4@64
    """
    from lowbit.study import execute

    study = execute.single_run_study(model, task, plan, out, seed, settings or ())
    if dry_run:
        from lowbit.cli.text.dry_run import dry_run as show_costs

        show_costs(study, device, execute.IN_ADAPT)
        return
    from lowbit.cli.console import say
    from lowbit.cli.run import progress
    from lowbit.cli.text.endings import explain_warnings, raise_failures, show_ending, show_run
    from lowbit.runs.store import ResultsFolder

    how = execute.RunOptions(1, rerun, progress(1), show_ending, say, execute.IN_ADAPT)
    endings = execute.execute_single(study, device, how)
    if not endings:
        say("done already")
    explain_warnings(endings)
    finished = ResultsFolder(study.results).find(study.runs[0].name)
    if finished is not None:
        show_run(finished)
    raise_failures(endings)
