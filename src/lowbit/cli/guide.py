"""`lowbit guide`."""

from __future__ import annotations

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
def guide(
    model: ModelArgument,
    task: TaskOption,
    size: Annotated[
        list[int] | None, typer.Option(min=1, help="Tokens (sentences) to train on. Repeatable.")
    ] = None,
    share: Annotated[
        float, typer.Option(min=0.0, help="Damage allowed, as a share of what estimation costs.")
    ] = 1.0,
    tokens: TokensOption = TOKENS,
    at: AtOption = None,
    settings: SetOption = None,
) -> None:
    """Recommend a precision for each rank and data size, from this model's own measurements.

    Example: lowbit guide demo:tiny --task demo
    """
    from lowbit.cli.text import predicted
    from lowbit.runs.request import single, without_plan

    spec, execution = single(model, task, "bf16", 0, without_plan(settings or ()))
    sizes = tuple(size or predicted.SIZES)
    predicted.guide(spec, execution, sizes, share, tokens, at)
