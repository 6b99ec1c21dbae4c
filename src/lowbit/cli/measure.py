"""`lowbit measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowbit.cli.options import (
    TOKENS,
    AtOption,
    ModelArgument,
    SetOption,
    TaskOption,
    TokensOption,
    guarded,
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
    to: Annotated[Path | None, typer.Option(help="Write the whole table as JSON.")] = None,
    at: AtOption = None,
    settings: SetOption = None,
) -> None:
    """Measure what every format would do to a model, by every predictor; trains nothing.

    It uses the task's calibration part, which is neither trained on nor scored. Tables are cached.

    Example: lowbit measure demo:tiny --task demo
    """
    from lowbit.cli.text import measured
    from lowbit.runs.request import single, without_plan
    from lowbit.sensitivity.by_name import FORMATS

    spec, execution = single(model, task, "bf16", 0, without_plan(settings or ()))
    measured.measure(spec, execution, formats or FORMATS, tokens, walk, to, at)
