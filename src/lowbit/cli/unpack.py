"""`lowbit unpack`."""

from __future__ import annotations

from lowbit.cli.options import ProfileOption, SetOption, StudyArgument, guarded


@guarded
def unpack(study: StudyArgument, settings: SetOption = None, profile: ProfileOption = None) -> None:
    """Restore the run folders of a packed study, bit for bit, and remove the packed files.

    Example: lowbit unpack studies/demo
    """
    import sys

    from lowbit.cli.console import say
    from lowbit.core.errors import RunError
    from lowbit.core.progress import phases
    from lowbit.runs.pack import unpack as unpack_results
    from lowbit.study.study import read_study

    declared = read_study(study, settings or (), profile)
    unpacked = unpack_results(declared.results, phases(sys.stderr.isatty()))
    if not unpacked.runs:
        raise RunError(f"{declared.results} holds no packed runs")
    say(f"{unpacked.runs} run folders, {unpacked.files} files, {unpacked.bytes / 1e6:.1f} MB")
    say(f"unpacked {declared.results}")
