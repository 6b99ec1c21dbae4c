"""`lowbit validate`."""

from __future__ import annotations

from lowbit.cli.options import ProfileOption, SetOption, StudyArgument, guarded


@guarded
def validate(
    study: StudyArgument, settings: SetOption = None, profile: ProfileOption = None
) -> None:
    """Check a study without running it: keys, formats, plans against the models, records.

    Example: lowbit validate studies/demo
    """
    from lowbit.cli.console import say
    from lowbit.runs.check import check_runs
    from lowbit.runs.record import check_current
    from lowbit.runs.store import ResultsFolder
    from lowbit.runs.workers.process import call
    from lowbit.study.study import read_study

    declared = read_study(study, settings or (), profile)
    call(check_runs, declared.runs, declared.execution)
    results = ResultsFolder(declared.results)
    for run in declared.runs:
        finished = results.find(run.name)
        if finished is not None:
            check_current(declared.run_folder(run), finished.record, run)
    say(f"{declared.title}: {len(declared.runs)} runs, {len(declared.claims)} claims; all is well")
