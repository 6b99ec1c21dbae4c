"""The `lowbit` command, assembled from its verbs.

Every import that costs time happens inside the verb that needs it.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lowbit.cli.adapt import adapt
from lowbit.cli.compare import compare
from lowbit.cli.doctor import doctor
from lowbit.cli.draw import draw
from lowbit.cli.evaluate import evaluate
from lowbit.cli.export import export
from lowbit.cli.formats import formats
from lowbit.cli.freeze import freeze
from lowbit.cli.guide import guide
from lowbit.cli.measure import measure
from lowbit.cli.pack import pack
from lowbit.cli.plan import plan
from lowbit.cli.predict import predict
from lowbit.cli.report import report
from lowbit.cli.research import app as research
from lowbit.cli.results import results
from lowbit.cli.run import run
from lowbit.cli.status import status
from lowbit.cli.unpack import unpack
from lowbit.cli.validate import validate

GROUPS = {
    "Fine-tune": (adapt, evaluate, export, freeze),
    "Before you train": (formats, measure, predict, guide, plan),
    "Studies": (run, status, validate, compare, draw, report, pack, unpack, results),
}

app = typer.Typer(
    name="lowbit",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="What does low precision cost my fine-tune, and where should I spend my bytes?\n\n"
    "Start with [bold]lowbit run studies/demo[/]: a small study from nothing to a report.",
)
for panel, verbs in GROUPS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
app.add_typer(research, name="research", rich_help_panel="Research")
app.command(rich_help_panel="System")(doctor)


def _show_version(value: bool) -> None:
    if value:
        from lowbit import __version__

        typer.echo(f"lowbit {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The `lowbit` command. `--dry_run` and `--dry-run` are the same option."""
    for i, word in enumerate(sys.argv[1:], 1):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            sys.argv[i] = name.replace("_", "-") + equals + value
    app()


if __name__ == "__main__":
    main()
