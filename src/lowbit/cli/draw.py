"""`lowbit draw`."""

from __future__ import annotations

from typing import Annotated

import typer

from lowbit.cli.options import ProfileOption, SetOption, StudyArgument, guarded


@guarded
def draw(
    study: StudyArgument,
    figure: Annotated[
        list[str] | None,
        typer.Option(help="Only this figure: pareto, ranks, memory, curves, ... Repeatable."),
    ] = None,
    settings: SetOption = None,
    profile: ProfileOption = None,
) -> None:
    """Draw a study's figures from its records, as PDF and PNG.

    Example: lowbit draw studies/demo --figure pareto
    """
    from lowbit.cli.console import say
    from lowbit.core.errors import RunError
    from lowbit.report import draw as drawing
    from lowbit.report.write_report import report_folder
    from lowbit.study.predicted_vs_observed import predicted_gaps
    from lowbit.study.results import read_results
    from lowbit.study.study import read_study

    declared = read_study(study, settings or (), profile)
    results = read_results(declared)
    shown_parts = drawing.part_settings(results)
    folder = report_folder(declared) / "figures"
    written = drawing.draw(shown_parts, folder, figure or (), predicted_gaps(results))
    if not written:
        raise RunError(f"{declared.results} holds no finished run: lowbit run {declared.folder}")
    for path in written:
        if path.suffix == ".png":
            say(f"figure   {path}")
