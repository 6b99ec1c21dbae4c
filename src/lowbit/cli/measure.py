"""`lowbit measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowbit.cli.options import (
    TOKENS,
    AllOption,
    AtOption,
    ModelArgument,
    SetOption,
    TaskOption,
    TokensOption,
    guarded,
    progress_shown,
)


@guarded
def measure(
    model: ModelArgument,
    task: TaskOption,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="Only this format. Repeatable.")
    ] = None,
    tokens: TokensOption = TOKENS,
    walk: Annotated[
        bool, typer.Option("--walk", help="Also run the model with every site stored alone.")
    ] = False,
    all_predictors: AllOption = False,
    to: Annotated[Path | None, typer.Option(help="Write the whole table as JSON.")] = None,
    at: AtOption = None,
    settings: SetOption = None,
) -> None:
    """Measure what every format would do to a model, by several predictors; trains nothing.

    It uses the task's calibration part, which is neither trained on nor scored. Tables are cached.

    Example: lowbit measure demo:tiny --task demo
    """
    from lowbit import measure as measure_model
    from lowbit.cli.text.measured import show_table
    from lowbit.runs.workers.process import call_showing
    from lowbit.sensitivity.by_name import FORMATS

    table = call_showing(
        measure_model, progress_shown(), model, task, formats or FORMATS,
        tokens=tokens, walk=walk, all_predictors=all_predictors, at=at, settings=settings or (),
    )  # fmt: skip
    show_table(table, tokens)
    if to is not None:
        from lowbit.cli.console import say
        from lowbit.core.files import write_atomic
        from lowbit.sensitivity.table import to_text

        write_atomic(to, to_text(table).encode())
        say(f"written  {to}")
