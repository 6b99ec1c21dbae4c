"""`lowbit compare`."""

from __future__ import annotations

from lowbit.cli.options import ProfileOption, SetOption, StudyArgument, guarded


@guarded
def compare(
    study: StudyArgument, settings: SetOption = None, profile: ProfileOption = None
) -> None:
    """Decide a study's claims from its records: effects, intervals, tests, verdicts.

    Works with the runs that are finished and lists what is missing.

    Example: lowbit compare studies/demo
    """
    from lowbit.cli.text.compared import show_comparison
    from lowbit.study.results import read_results
    from lowbit.study.study import read_study

    show_comparison(read_results(read_study(study, settings or (), profile)))
