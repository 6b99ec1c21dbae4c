"""Commands that ask before anything is trained: evaluate, measure, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lowbit.cli.options import (
    DeviceOption,
    ModelArgument,
    PlanOption,
    ProfileOption,
    SetOption,
    TaskOption,
    guarded,
)
from lowbit.core.errors import UserError

app = typer.Typer()

TOKENS = 4096
TokensOption = Annotated[int, typer.Option(min=1, help="Of calibration text.")]
AtOption = Annotated[
    Path | None,
    typer.Option("--at", help="A finished 16-bit run: measure where its adapter brought it."),
]


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

    from lowbit.cli import tools
    from lowbit.runs.request import single

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
    tokens: TokensOption = TOKENS,
    walk: Annotated[
        bool, typer.Option("--walk", help="Also run the model with every site stored alone.")
    ] = False,
    to: Annotated[Path | None, typer.Option(help="Write the whole table as JSON.")] = None,
    at: AtOption = None,
    settings: SetOption = None,
) -> None:
    """What every format would do to a model, by every predictor; nothing is trained.

    On the task's calibration part, which is neither trained on nor scored; kept once known.
    """
    from lowbit.cli import measure as surveying
    from lowbit.runs.request import single

    spec, execution = single(model, task, "bf16", 0, _no_plan(settings))
    chosen = formats or surveying.FORMATS
    surveying.measure(spec, execution, chosen, tokens, walk, to, at)


@app.command()
@guarded
def predict(
    model: Annotated[
        str, typer.Argument(help="A model (folder, hub id, assets:NAME), or a study's folder.")
    ],
    task: Annotated[str, typer.Option(help="As for `adapt`; a study has its own.")] = "",
    plan: Annotated[
        list[str] | None,
        typer.Option(help="A plan's TOML, a format or a name like Joint-2. Repeatable."),
    ] = None,
    bits: Annotated[
        list[int] | None,
        typer.Option(help="Block matrices in so many bits, groups of 64. Repeatable.", min=2),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Of calibration text; {TOKENS:,} unless said.")
    ] = None,
    at: AtOption = None,
    settings: SetOption = None,
    profile: ProfileOption = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Of a study: forecasts at a time, 1 unless said.")
    ] = None,
) -> None:
    """What a plan will cost in nats and in perplexity, before anything is trained.

    By every predictor, with its interval, and which of them to trust at these bits.

    Of a study: every forecast that is not made yet; `compare` holds them against its runs.
    """
    from lowbit.cli import predict as foretelling

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
    found = {each: single(model, task, each, 0, settings or ()) for each in plans}
    execution = next(iter(found.values()))[1]
    foretelling.predict(
        {t: spec for t, (spec, _) in found.items()}, execution, tokens or TOKENS, at
    )


@app.command()
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
    """Which precision a rank and so much data ask for, from this model's own measurements."""
    from lowbit.cli import predict as foretelling
    from lowbit.runs.request import single

    spec, execution = single(model, task, "bf16", 0, _no_plan(settings))
    sizes = tuple(size or foretelling.SIZES)
    foretelling.guide(spec, execution, sizes, share, tokens, at)


@app.command()
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
        typer.Option(help="Folder for the bits as GPTQModel, AutoRound and HQQ are told them."),
    ] = None,
    controls: Annotated[
        Path | None,
        typer.Option(help="Folder for plans to hold it against at the same bytes."),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Random plans among the controls, 3 unless said.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="For what is stored and not trained any more.")
    ] = False,
    tokens: TokensOption = TOKENS,
    at: AtOption = None,
    settings: SetOption = None,
) -> None:
    """The best bits and ranks of every site under a budget of bytes; nothing is trained.

    What a rank is worth is measured where the model stands: a step on half of the calibration
    text, scored on the other half.
    """
    from lowbit.cli import measure as surveying
    from lowbit.cli import plan as budgeting
    from lowbit.cli.options import bytes_of
    from lowbit.planner.request import PlanRequest
    from lowbit.quant.formats import parse
    from lowbit.runs.request import single

    if draws and not controls:
        raise UserError("--draws is for --controls FOLDER: where the random plans go")
    spec, execution = single(model, task, "bf16", 0, _no_plan(settings))
    chosen = tuple(formats or surveying.PLANNED)
    limits = (bytes_of(budget), bytes_of(train_memory) if train_memory else 0)
    among = tuple(sorted(set(ranks or surveying.RANKS)))
    for text in chosen:
        parse(text)
    wanted = PlanRequest(
        *limits, chosen, among, tokens, at, (draws or 3) if controls else 0, untrained=untrained
    )
    budgeting.plan(spec, execution, wanted, to, maps, controls)


def _no_plan(settings: list[str] | None) -> list[str]:
    """What is asked of every format and rank takes no plan's settings."""
    for each in settings or ():
        if each.split("=")[0].split(".")[0].strip() == "plan":
            raise UserError(f"--set {each}: there is no plan yet that this would be a setting of")
    return settings or []
