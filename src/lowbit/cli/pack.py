"""`lowbit pack`."""

from __future__ import annotations

from typing import Annotated

import typer

from lowbit.cli.options import ProfileOption, SetOption, StudyArgument, guarded


@guarded
def pack(
    study: StudyArgument,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Where a folder and a packed run differ, keep the folder."),
    ] = False,
    settings: SetOption = None,
    profile: ProfileOption = None,
) -> None:
    """Pack a study's finished run folders into a few files that version control can diff.

    Every byte is checked before a folder is removed; `lowbit unpack` restores the folders.

    Example: lowbit pack studies/demo
    """
    import sys

    from lowbit.cli.console import say
    from lowbit.core.errors import RunError
    from lowbit.core.progress import phases
    from lowbit.runs.pack import pack as pack_results
    from lowbit.study.study import read_study

    declared = read_study(study, settings or (), profile)
    packed = pack_results(declared.results, replace, phases(sys.stderr.isatty()))
    if not packed.runs:
        raise RunError(f"{declared.results} holds no finished run: lowbit run {declared.folder}")
    say(f"{packed.runs} runs in {packed.files} files, {packed.bytes / 1e6:.1f} MB")
    if packed.left:
        say(f"{len(packed.left)} folders have no whole record and stay: {', '.join(packed.left)}")
    say(f"packed   {declared.results}")
