"""`lowbit freeze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowbit.cli.options import guarded


@guarded
def freeze(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    to: Annotated[Path, typer.Option(help="The plan's file, ending in .toml.")],
) -> None:
    """Write the ranks that a run's schedule chose as a plan with fixed ranks.

    Use it with `lowbit adapt --plan`, or in a study: \\[plan.NAME] file = "that.toml".

    Example: lowbit freeze runs/NAME --to ranks.toml
    """
    from lowbit.cli.console import say
    from lowbit.runs.freeze import freeze_run

    plan = freeze_run(run_folder, to)
    say(f"wrote {to}: {plan.rank} directions a matrix, and {len(plan.rule)} rules for the rest")
