"""`lowbit plan`."""

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
    progress_shown,
)
from lowbit.core.errors import UserError


@guarded
def plan(
    model: ModelArgument,
    task: TaskOption,
    budget: Annotated[str, typer.Option(help="Bytes at rest, like 12MB.")],
    to: Annotated[Path, typer.Option(help="The plan's file to write.")] = Path("plan.toml"),
    train_memory: Annotated[
        str, typer.Option(help="Peak bytes of a training step, like 2GB.")
    ] = "",
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Choose among these, like nf4@32. Repeatable."),
    ] = None,
    ranks: Annotated[
        list[int] | None,
        typer.Option("--rank", min=1, help="Choose among these ranks. Repeatable."),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Folder for the bits as configs of GPTQModel, AutoRound and HQQ."),
    ] = None,
    controls: Annotated[
        Path | None,
        typer.Option(help="Folder for plans of the same bytes, for comparison."),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Random plans among the controls; default 3.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Plan for a model that is not trained afterwards.")
    ] = False,
    rounding: Annotated[
        str,
        typer.Option(
            help="nearest; calibrated or two-sided cost no bytes and do less damage: minutes more."
        ),
    ] = "nearest",
    tokens: TokensOption = TOKENS,
    at: AtOption = None,
    settings: SetOption = None,
) -> None:
    """Find the best bits and ranks of every site under a budget of bytes; trains nothing.

    The gain of a rank is measured by a step on half of the calibration text, scored on the other
    half.

    Example: lowbit plan demo:tiny --task demo --budget 1MB
    """
    from lowbit import plan_for_budget
    from lowbit.cli.text.planned import show_plan, write_plan
    from lowbit.planner.plan_for_budget import PLANNED
    from lowbit.runs.workers.process import call_showing
    from lowbit.sensitivity.by_name import RANKS

    if draws and not controls:
        raise UserError("--draws is for --controls FOLDER: where the random plans go")
    if to.suffix != ".toml":
        raise UserError(f"{to}: a plan's file ends in .toml")
    planned = call_showing(
        plan_for_budget, progress_shown(), model, task, budget,
        train_memory=train_memory or 0, formats=formats or PLANNED, ranks=ranks or RANKS,
        tokens=tokens, at=at, controls=(draws or 3) if controls else 0, untrained=untrained,
        rounding=rounding, settings=settings or (),
    )  # fmt: skip
    show_plan(planned)
    write_plan(planned, model, task, to, maps, controls)
