"""`lowbit run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lowbit.cli.options import (
    DeviceOption,
    OnlyOption,
    ProfileOption,
    SeedsOption,
    SetOption,
    StudyArgument,
    guarded,
    progress_shown,
    seeds_of,
)

if TYPE_CHECKING:
    from lowbit.runs.request import Device
    from lowbit.study.study import Study


@guarded
def run(
    study: StudyArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run nothing; show each cell's bytes, memory, time.")
    ] = False,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    settings: SetOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    profile: ProfileOption = None,
    device: DeviceOption = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Replace finished runs.")] = False,
    until_resolved: Annotated[
        bool,
        typer.Option(
            "--until-resolved",
            help="Predict too, and add text or seeds where a gap is not resolved.",
        ),
    ] = False,
    most_seeds: Annotated[
        int, typer.Option(min=1, help="Seeds of a part at most, for --until-resolved.")
    ] = 12,
) -> None:
    """Run what a study lacks, then show its table, figures and report.

    Finished runs are skipped; an interrupted one is resumed from its last checkpoint.

    Example: lowbit run studies/demo
    """
    from lowbit.study.study import read_study

    def read_now() -> Study:
        return read_study(study, settings or (), profile, seeds_of(seeds), only or ())

    declared = read_now()
    if dry_run:
        from lowbit.cli.text.dry_run import dry_run as show_costs

        show_costs(declared, device)
    elif until_resolved:
        from lowbit.cli.console import wrapped
        from lowbit.core.errors import UserError
        from lowbit.study.resolve import run_until_resolved

        if seeds or only:
            raise UserError("--until-resolved chooses text and seeds itself: no --seeds, no --only")
        run_until_resolved(
            read_now,
            lambda now: run_and_report(now, jobs, device, False),
            most_seeds,
            progress_shown(),
            wrapped,
        )
    else:
        run_and_report(declared, jobs, device, rerun)


def run_and_report(study: Study, jobs: int, device: Device | None, rerun: bool) -> None:
    """Run what is missing, then report."""
    from lowbit.cli.console import say
    from lowbit.cli.report import show_report
    from lowbit.cli.text.endings import explain_warnings, raise_failures, show_ending
    from lowbit.study import execute
    from lowbit.study.isolated_costs import measure_isolated_costs
    from lowbit.study.results import read_results

    how = execute.RunOptions(jobs, rerun, progress(jobs), show_ending, say)
    execution = execute.execution_on(study, device)
    with execute.one_process_per_folder(study.results, say):
        missing = execute.missing_jobs(study, how)
        if finished := len(study.runs) - len(missing):
            diverged = sum(run.record.status == "diverged" for run in read_results(study).runs)
            note = f", {diverged} of them diverged" if diverged else ""
            say(f"{finished} of {len(study.runs)} runs are done already{note}")
        endings = execute.run_missing(study, execution, missing, how)
        measure_isolated_costs(study, execution, say)
        explain_warnings(endings)
        results = read_results(study)
        if results.runs:
            show_report(results)
    raise_failures(endings)


def progress(jobs: int) -> Literal["bar", "nothing"]:
    """A bar where one run at a time is watched on a terminal."""
    return "bar" if jobs == 1 and sys.stderr.isatty() else "nothing"
