"""The command line. Every import that costs time happens inside the command that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lowbit.cli import ask
from lowbit.cli.options import (
    DeviceOption,
    ModelArgument,
    OnlyOption,
    PlanOption,
    ProfileOption,
    SeedsOption,
    SetOption,
    StudyArgument,
    TaskOption,
    guarded,
    seeds_of,
)
from lowbit.cli.research import app as research

app = typer.Typer(
    name="lowbit",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="What does low precision cost my fine-tune, and where should I spend my bytes?\n\n"
    "Start with [bold]lowbit run studies/demo[/]: a small study from nothing to a report.",
)

app.add_typer(research, name="research")


@app.command()
@guarded
def run(
    study: StudyArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run nothing; show each cell's bytes, memory, time.")
    ] = False,
    only: OnlyOption = None,
    seeds: SeedsOption = "",
    settings: SetOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    profile: ProfileOption = None,
    device: DeviceOption = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Replace records that are there already.")
    ] = False,
    until_resolved: Annotated[
        bool,
        typer.Option(
            help="Predict too, and add text or seeds where theory and data differ unresolved."
        ),
    ] = False,
    most_seeds: Annotated[int, typer.Option(min=1, help="Of a part, for --until-resolved.")] = 12,
) -> None:
    """Carry out a study, or the rest of it, then show its table, figure and report.

    Finished runs are skipped; an interrupted one goes on from its last checkpoint.
    """
    from lowbit.cli.dry_run import dry_run as show_costs
    from lowbit.cli import run as commands
    from lowbit.study.study import Study, read_study

    def chosen_now() -> Study:
        return read_study(study, settings or (), profile, seeds_of(seeds), only or ())

    chosen = chosen_now()
    if dry_run:
        show_costs(chosen, device)
    elif until_resolved:
        from lowbit.cli import resolve
        from lowbit.core.errors import UserError

        if seeds or only:
            raise UserError("--until-resolved chooses text and seeds itself: no --seeds, no --only")
        resolve.until_resolved(
            chosen_now, lambda now: commands.carry_out(now, jobs, device, False), most_seeds
        )
    else:
        commands.carry_out(chosen, jobs, device, rerun)


@app.command()
@guarded
def status(study: StudyArgument, settings: SetOption = None, profile: ProfileOption = None) -> None:
    """Which runs of a study are done, under way, diverged, missing or out of date."""
    from lowbit.cli import study as looking
    from lowbit.study.study import read_study

    looking.status(read_study(study, settings or (), profile))


@app.command()
@guarded
def validate(
    study: StudyArgument, settings: SetOption = None, profile: ProfileOption = None
) -> None:
    """Check a study without running it: keys, formats, plans against the models, records."""
    from lowbit.cli import study as looking
    from lowbit.study.study import read_study

    looking.validate(read_study(study, settings or (), profile))


@app.command()
@guarded
def report(study: StudyArgument, settings: SetOption = None, profile: ProfileOption = None) -> None:
    """Write a study's table, figures and one self-contained HTML page from its records."""
    from lowbit.cli import study as looking
    from lowbit.study.study import read_study

    looking.report(read_study(study, settings or (), profile))


@app.command()
@guarded
def compare(
    study: StudyArgument, settings: SetOption = None, profile: ProfileOption = None
) -> None:
    """Decide a study's claims from its records: effects, intervals, tests, verdicts.

    Works on what is there, and lists what is missing. Needs no torch.
    """
    from lowbit.cli import study as looking
    from lowbit.study.study import read_study

    looking.compare(read_study(study, settings or (), profile))


@app.command()
@guarded
def draw(
    study: StudyArgument,
    figure: Annotated[
        list[str] | None,
        typer.Option(help="Only this figure: pareto, ranks, memory, curves, ... Repeatable."),
    ] = None,
    settings: SetOption = None,
    profile: ProfileOption = None,
) -> None:
    """Draw a study's figures from its records, as PDF and PNG."""
    from lowbit.cli import study as looking
    from lowbit.study.study import read_study

    looking.draw(read_study(study, settings or (), profile), figure or ())


@app.command()
@guarded
def adapt(
    model: ModelArgument,
    task: TaskOption,
    plan: PlanOption,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    seed: Annotated[int, typer.Option(min=0, help="Of adapters, data order and dropout.")] = 0,
    settings: SetOption = None,
    device: DeviceOption = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Replace a record there already.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run nothing; show bytes, memory and time.")
    ] = False,
) -> None:
    """Fine-tune one model on one task with one plan; leaves a record and a PEFT adapter.

    Settings as in a study: --set train.epochs=1 --set task.limit=2000 --set plan.rank=4
    """
    from lowbit.cli.dry_run import dry_run as show_costs
    from lowbit.cli import run as commands
    from lowbit.runs.request import single
    from lowbit.study.study import Study

    spec, execution = single(model, task, plan, seed, settings or ())
    one = Study(out, spec.name, "", (), (spec,), execution, out)
    if dry_run:
        show_costs(one, device, commands.AS_ARGUMENT)
    else:
        commands.adapt_one(one, device, rerun)


@app.command()
@guarded
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    what: Annotated[
        Literal["base", "merged"],
        typer.Option(help="The decoded base (for PEFT), or base and adapter merged into one."),
    ] = "merged",
) -> None:
    """Write a run's model as an ordinary transformers folder."""
    from lowbit.cli import tools

    tools.export(run_folder, to, merge=what == "merged")


@app.command()
@guarded
def freeze(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    to: Annotated[Path, typer.Option(help="The plan's file, ending in .toml.")],
) -> None:
    """Write the ranks that a run's schedule found as a plan with fixed ranks.

    Use it with `lowbit adapt --plan`, or in a study: \\[plan.NAME] file = "that.toml".
    """
    from lowbit.cli import tools

    tools.freeze(run_folder, to)


@app.command()
@guarded
def doctor() -> None:
    """What this machine has: devices, the real speed of bf16, memory, optional tools."""
    from lowbit.cli import tools

    tools.doctor()


app.add_typer(ask.app)


def main() -> None:
    """The `lowbit` command. `--dry_run` and `--dry-run` are the same option."""
    for i, word in enumerate(sys.argv[1:], 1):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            sys.argv[i] = name.replace("_", "-") + equals + value
    app()


if __name__ == "__main__":
    main()
