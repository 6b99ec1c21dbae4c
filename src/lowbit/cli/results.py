"""`lowbit results`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowbit.cli.options import ProfileOption, SetOption, StudyArgument, guarded


@guarded
def results(
    study: StudyArgument,
    to: Annotated[Path, typer.Option(help="The table's file, ending in .csv or .parquet.")],
    settings: SetOption = None,
    profile: ProfileOption = None,
) -> None:
    """Write a study's records as one flat table for pandas or a spreadsheet: a row a run.

    Example: lowbit results studies/demo --to demo.csv
    """
    from lowbit.cli.console import say
    from lowbit.study.results import read_results
    from lowbit.study.results_table import write_results
    from lowbit.study.study import read_study

    declared = read_study(study, settings or (), profile)
    say(f"{write_results(read_results(declared), to)} runs")
    say(f"written  {to}")
