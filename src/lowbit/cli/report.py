"""`lowbit report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowbit.cli.options import ProfileOption, SetOption, StudyArgument, guarded

if TYPE_CHECKING:
    from lowbit.study.results import Results


@guarded
def report(study: StudyArgument, settings: SetOption = None, profile: ProfileOption = None) -> None:
    """Write a study's table, figures and one self-contained HTML page from its records.

    Example: lowbit report studies/demo
    """
    from lowbit.study.results import read_results
    from lowbit.study.study import read_study

    show_report(read_results(read_study(study, settings or (), profile)))


def show_report(results: Results) -> None:
    """The table on the terminal; figures and page in the study's folder."""
    from lowbit.cli.console import out, say
    from lowbit.report.table import render
    from lowbit.report.write_report import check_finished_runs, write_results_report
    from lowbit.study.summary_rows import summary_rows

    check_finished_runs(results)
    console = out()
    parts = [(part, results.runs_of(part)) for part in results.parts]
    several = sum(bool(runs) for _, runs in parts) > 1
    for part, runs in parts:
        if several and runs:
            say(f"\n{part.title}", style="bold")
        if runs:
            console.print(render(summary_rows(runs), min(console.width, 120)))
    written = write_results_report(results)
    say(f"figures  {written.figures}")
    say(f"report   {written.page}")
