"""Commands that ask before anything is trained: evaluate, measure, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lowbit.options import (
    DeviceOption,
    ModelArgument,
    PlanOption,
    SetOption,
    TaskOption,
    guarded,
)

app = typer.Typer()


@app.command()
@guarded
def evaluate(
    model: ModelArgument,
    task: TaskOption,
    plan: PlanOption,
    part: Annotated[
        Literal["scored", "calibration", "selection"],
        typer.Option(help="Which part of the task; whoever chooses by it, leaves `scored` alone."),
    ] = "scored",
    settings: SetOption = None,
    device: DeviceOption = None,
) -> None:
    """Score a model as a plan stores it, untrained, beside the same model in 16 bits.

    Scores are kept, so asking again costs nothing.
    """
    from dataclasses import replace

    from lowbit import tools
    from lowbit.single import single

    spec, execution = single(model, task, plan, 0, settings or ())
    tools.evaluate(spec, replace(execution, device=device) if device else execution, part)


@app.command()
@guarded
def measure(
    model: ModelArgument,
    task: TaskOption,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="Only this format. Repeatable.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Of calibration text.")] = 4096,
    walk: Annotated[
        bool, typer.Option("--walk", help="Also run the model with every site stored alone.")
    ] = False,
    to: Annotated[Path | None, typer.Option(help="Write the whole table as JSON.")] = None,
    settings: SetOption = None,
) -> None:
    """What every format would do to a model, by every predictor; nothing is trained.

    On the task's calibration part, which is neither trained on nor scored; kept once known.
    """
    from lowbit import foretelling
    from lowbit.single import single

    spec, execution = single(model, task, "bf16", 0, settings or ())
    chosen = formats or foretelling.FORMATS
    foretelling.measure(spec, execution, chosen, tokens, walk, to)


@app.command()
@guarded
def plan(
    model: ModelArgument,
    task: TaskOption,
    budget: Annotated[str, typer.Option(help="Bytes at rest, like 12MB.")],
    to: Annotated[Path, typer.Option(help="The plan's file to write.")] = Path("plan.toml"),
    train_memory: Annotated[
        str, typer.Option(help="Bytes of base and adapter states in training, like 2GB.")
    ] = "",
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="Choose among these. Repeatable.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Of calibration text.")] = 4096,
    settings: SetOption = None,
) -> None:
    """The best bits and ranks of every site under a budget of bytes; nothing is trained."""
    from lowbit import foretelling
    from lowbit.options import bytes_of
    from lowbit.single import single

    spec, execution = single(model, task, "bf16", 0, settings or ())
    chosen = tuple(formats or foretelling.FORMATS)
    limits = (bytes_of(budget), bytes_of(train_memory) if train_memory else 0)
    foretelling.plan(spec, execution, (*limits, chosen, foretelling.RANKS, tokens), to)
