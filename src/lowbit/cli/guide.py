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
    progress_shown,
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
    from lowbit.cli.text.guide import show_guide
    from lowbit.runs.workers.process import call_showing
    from lowbit.sensitivity.by_name import SIZES
    from lowbit.sensitivity.by_name import guide as recommend

    recommendations = call_showing(
        recommend, progress_shown(), model, task, tuple(size or SIZES),
        share=share, tokens=tokens, at=at, settings=settings or (),
    )  # fmt: skip
    show_guide(recommendations, tokens)
