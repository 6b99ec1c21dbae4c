"""`lowbit predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from lowbit.cli.options import (
    TOKENS,
    AllOption,
    AtOption,
    ProfileOption,
    SetOption,
    guarded,
    plans_of_bits,
    progress_shown,
)
from lowbit.core.errors import UserError


@guarded
def predict(
    model: Annotated[
        str, typer.Argument(help="A model (folder, hub id, assets:NAME), or a study's folder.")
    ],
    task: Annotated[str, typer.Option(help="As for `adapt`; not for a study.")] = "",
    plan: Annotated[
        list[str] | None,
        typer.Option(help="A plan's TOML, a format or a name like Joint-2. Repeatable."),
    ] = None,
    bits: Annotated[
        list[int] | None,
        typer.Option(help="Block matrices in so many bits, groups of 64. Repeatable.", min=2),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Tokens of calibration text; default {TOKENS:,}.")
    ] = None,
    all_predictors: AllOption = False,
    at: AtOption = None,
    settings: SetOption = None,
    profile: ProfileOption = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Of a study: forecasts at a time; default 1.")
    ] = None,
) -> None:
    """Predict what a plan will cost in nats and in perplexity, before anything is trained.

    Shows each predictor with its interval, and which one to trust at these bits. For a study it
    makes every forecast that is missing; `compare` shows them next to the results.

    Example: lowbit predict demo:tiny --task demo --bits 4
    """
    from lowbit.runs.workers.process import call_showing

    if not task:
        from lowbit.cli.console import say
        from lowbit.study.predict_study import predict_study
        from lowbit.study.study import read_study

        if plan or bits or at or tokens or all_predictors:
            raise UserError(
                "a study declares its own forecasts: no --plan, --bits, --at, --all or --tokens"
            )
        study = read_study(model, settings or (), profile)
        predict_study(study, jobs or 1, progress_shown(), say)
        return
    if profile or jobs:
        raise UserError("--profile and --jobs are for studies, which are given without --task")
    from lowbit import predict as predict_plans
    from lowbit.cli.text.predicted import show_predictions

    plans = [*(plan or ()), *plans_of_bits(bits or ([] if plan else [8, 4, 3]))]
    forecast = call_showing(
        predict_plans, progress_shown(), model, task, plans,
        tokens=tokens or TOKENS, all_predictors=all_predictors, at=at, settings=settings or (),
    )  # fmt: skip
    show_predictions(forecast, tokens or TOKENS)
