"""`lowbit predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from lowbit.cli.options import (
    TOKENS,
    AtOption,
    ProfileOption,
    SetOption,
    guarded,
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
    at: AtOption = None,
    settings: SetOption = None,
    profile: ProfileOption = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Of a study: forecasts at a time; default 1.")
    ] = None,
) -> None:
    """Predict what a plan will cost in nats and in perplexity, before anything is trained.

    Shows every predictor with its interval, and which one to trust at these bits. For a study it
    makes every forecast that is missing; `compare` shows them next to the results.

    Example: lowbit predict demo:tiny --task demo --bits 4
    """
    from lowbit.cli.text import predicted

    if not task:
        from lowbit.cli import predict_study
        from lowbit.study.study import read_study

        if plan or bits or at or tokens:
            raise UserError(
                "a study says itself what is predicted: no --plan, --bits, --at or --tokens"
            )
        predict_study.predict(read_study(model, settings or (), profile), jobs or 1)
        return
    if profile or jobs:
        raise UserError("--profile and --jobs are for studies, which are given without --task")
    from lowbit.cli.options import plans_of_bits
    from lowbit.runs.request import single

    plans = [*(plan or ()), *plans_of_bits(bits or ([] if plan else [8, 4, 3]))]
    requests = {each: single(model, task, each, 0, settings or ()) for each in plans}
    execution = next(iter(requests.values()))[1]
    predicted.predict(
        {t: spec for t, (spec, _) in requests.items()}, execution, tokens or TOKENS, at
    )
