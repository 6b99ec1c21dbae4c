"""`lowbit research`: the loop's verbs at the command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lowbit.cli.options import TaskOption, guarded

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="An autonomous loop for ternary training whose keeps are real.\n\n"
    "[bold]init[/] begins a campaign; [bold]run[/] lets a proposer drive it overnight; or an "
    "agent edits train.py and calls [bold]trial[/]. [bold]report[/] is for the morning.",
)

FolderArgument = Annotated[
    str, typer.Argument(help="A folder with program.md, prepare.py and train.py.")
]
TagOption = Annotated[
    str | None, typer.Option(help="Which campaign of the folder; else its newest one.")
]


@app.command()
@guarded
def init(
    folder: FolderArgument = ".",
    tag: Annotated[str, typer.Option(help="The branch will be autoresearch/TAG.")] = "first",
    model: Annotated[
        str, typer.Option(help="The base: a hub id, assets:NAME, or a folder.")
    ] = "HuggingFaceTB/SmolLM-135M",
    task: TaskOption = "wikitext2",
    budget: Annotated[float, typer.Option(help="Seconds of training a trial has.")] = 300.0,
    alpha: Annotated[
        float, typer.Option(help="Chance that a campaign of changes of nothing keeps any.")
    ] = 0.05,
    horizon: Annotated[
        int, typer.Option(help="Confirmations that most of alpha is split over.")
    ] = 20,
    seeds: Annotated[int, typer.Option(min=2, help="Of a confirmation, and of the ending.")] = 5,
    tokens: Annotated[
        int, typer.Option(help="Of a confirmation; 0: what the clock lets the first program see.")
    ] = 0,
    threads: Annotated[int, typer.Option(help="Of a trial; 0: all cores.")] = 0,
    memory: Annotated[str, typer.Option(help="That a trial may take.")] = "8GB",
    device: Annotated[str, typer.Option(help="Of a trial: cpu, cuda or mps.")] = "cpu",
    window: Annotated[int, typer.Option(help="Tokens of a training row.")] = 256,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Begin a campaign: a branch, a worktree, text split by article, a ledger."""
    import os

    from rich.console import Console
    from rich.markup import escape

    from lowbit.core.byte_sizes import parse_bytes
    from lowbit.research import actions
    from lowbit.research.campaign.settings import CampaignSettings, Places, campaign_folder

    settings = CampaignSettings(
        tag,
        model,
        task,
        budget,
        alpha=alpha,
        horizon=horizon,
        seeds=tuple(range(seeds + 1)),
        fresh=tuple(range(100, 100 + seeds)),
        window=window,
        tokens=tokens,
        threads=threads or os.cpu_count() or 1,
        memory=parse_bytes(memory),
        device=device,
    )
    outcome = actions.init(folder, settings, dry_run)
    say = Console(highlight=False).print
    places = Places(campaign_folder(folder), tag)
    say(f"{'would begin' if dry_run else 'begun'}: branch {escape(outcome['branch'])}")
    for name, size_of in outcome.get("texts", {}).items():
        size = size_of.get("rows") or size_of["articles"]
        say(f"  {name:<20}{size:,} {'rows' if 'rows' in size_of else 'articles'}")
    say(f"an agent edits  {escape(str(places.tree / 'train.py'))}", soft_wrap=True)
    say(f"or leave it alone: lowbit research run {escape(folder)} --tag {escape(tag)}")


@app.command()
@guarded
def run(
    folder: FolderArgument = ".",
    tag: TagOption = None,
    proposer: Annotated[
        str, typer.Option(help='builtin, random, command:"LINE", openai:URL.')
    ] = "builtin",
    trials: Annotated[
        int | None, typer.Option(help="Judged ones in all; else until interrupted.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the proposer.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Propose, try, judge, keep or roll back, again and again."""
    from lowbit.research import actions

    if dry_run:
        _preview(_at(folder, tag), proposer, trials, jobs, seed)
        return
    from lowbit.research.report.console import Screen

    with Screen() as screen:
        ended = actions.run(_at(folder, tag, watch=screen), proposer, trials, jobs, seed)
    typer.echo(ended)


@app.command()
@guarded
def resume(
    folder: FolderArgument = ".",
    tag: TagOption = None,
    looked: Annotated[
        bool, typer.Option("--looked", help="A person has looked at what stopped the loop.")
    ] = False,
) -> None:
    """Go on exactly where a campaign was interrupted, as its last run was told to."""
    from lowbit.research import actions
    from lowbit.research.report.console import Screen

    with Screen() as screen:
        ended = actions.resume(_at(folder, tag, watch=screen), looked)
    typer.echo(ended)


@app.command()
@guarded
def trial(
    folder: FolderArgument = ".",
    message: Annotated[str, typer.Option("-m", "--message", help="What was changed.")] = "",
    tag: TagOption = None,
) -> None:
    """Try the edit in the worktree's train.py; it is kept, or rolled back."""
    from lowbit.research import actions
    from lowbit.research.report.console import Screen, why

    with Screen() as screen:
        outcome, _ = actions.trial(_at(folder, tag, watch=screen), message)
    typer.echo(f"{outcome.status}: {why(outcome)}")
    if outcome.status == "crash":
        raise typer.Exit(1)


@app.command()
@guarded
def rollback(
    folder: FolderArgument = ".",
    tag: TagOption = None,
    last: Annotated[bool, typer.Option("--last", help="Take back the newest keep too.")] = False,
) -> None:
    """Drop the edit in the worktree. Nothing that was tried is ever lost."""
    from lowbit.research import actions

    typer.echo(actions.rollback(_at(folder, tag), last))


@app.command()
@guarded
def report(
    folder: FolderArgument = ".",
    tag: TagOption = None,
    ending: Annotated[
        bool,
        typer.Option("--ending", help="Close the campaign: keeps taken out, fresh seeds, sealed."),
    ] = False,
    against: Annotated[
        list[str] | None, typer.Option(help="Another campaign to show beside it. Repeatable.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, for the ending.")] = 1,
    early: Annotated[
        bool, typer.Option("--early", help="End it though not all its trials are judged.")
    ] = False,
) -> None:
    """Progress chart, ledger, the five priorities, cost; with --ending, whether it was real.

    The ending opens the sealed text, once: no trial is accepted after it.
    """
    from lowbit.research import actions
    from lowbit.research.report.console import Screen

    with Screen() as screen:
        campaign = _at(folder, tag, sure=ending, watch=screen)
        paths = actions.report(campaign, ending, jobs, against or (), early)
    for path in paths:
        typer.echo(path)


@app.command()
@guarded
def status(folder: FolderArgument = ".", tag: TagOption = None) -> None:
    """The running trial, the best so far, the noise, alpha spent, time and cost."""
    import time

    from rich.console import Console

    from lowbit.research.report import console as saying
    from lowbit.research.session import is_running

    campaign = _at(folder, tag)
    state = campaign.state()
    console = Console(highlight=False)
    saying.status(console, campaign.places, state, time.time(), is_running(campaign.places))


@app.command()
@guarded
def mcp(folder: FolderArgument = ".", tag: TagOption = None) -> None:
    """Offer these verbs as MCP tools on standard input and output, for this folder alone."""
    from lowbit.research.mcp_server import server

    server(folder, tag).run("stdio")


def _at(folder: str, tag: str | None, **more: Any) -> Any:
    from lowbit.research.session import Campaign

    return Campaign.at(folder, tag, **more)


def _preview(campaign: Any, proposer: str, trials: int | None, jobs: int, seed: int) -> None:
    """What `run` would do, without doing any of it."""
    from lowbit.research import actions

    for line in actions.preview(campaign, proposer, trials, jobs, seed):
        typer.echo(line)
