"""`lowbit export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lowbit.cli.options import guarded


@guarded
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    what: Annotated[
        Literal["base", "merged"],
        typer.Option(help="The decoded base (for PEFT), or base and adapter merged into one."),
    ] = "merged",
) -> None:
    """Write a run's model as an ordinary transformers folder.

    Example: lowbit export runs/NAME --to my-model
    """
    from lowbit.cli.console import say
    from lowbit.runs.export_model import ExportedModel, export_model
    from lowbit.runs.workers.process import call

    exported: ExportedModel = call(export_model, run_folder, to, what)
    merged = what == "merged"
    content = "base and adapter merged, on the decoded base" if merged else "the decoded base"
    say(f"wrote {to}: {content}")
    if exported.needs_adapter:
        say("use it with the run's adapter only: the adapter started as a part of the weights")
    if exported.loss is not None:
        say(f"loss on calibration text: {exported.loss:.4f} as written,")
        say(f"{exported.loss_if_stored_again:.4f} were it stored in the plan's formats again")
