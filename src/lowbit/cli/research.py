"""`lowbit research`: the commands of the research loop."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lowbit.cli.options import TaskOption, guarded

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Improve ternary training automatically: edit train.py, run it, keep the edit if a test "
    "confirms it.\n\n"
    "[bold]init[/] starts a campaign. [bold]run[/] lets a proposer edit train.py, for example "
    "overnight; or an agent edits it and calls [bold]trial[/]. [bold]report[/] shows the results.",
)

FolderArgument = Annotated[
    str, typer.Argument(help="Campaign folder with program.md, prepare.py and train.py.")
]
TagOption = Annotated[
    str | None, typer.Option(help="Tag of the campaign. Default: the newest in the folder.")
]


@app.command()
@guarded
def init(
    folder: FolderArgument = ".",
    tag: Annotated[
        str, typer.Option(help="Name of the campaign; its branch is autoresearch/TAG.")
    ] = "first",
    model: Annotated[
        str, typer.Option(help="Base model: a hub id, assets:NAME, or a folder.")
    ] = "HuggingFaceTB/SmolLM-135M",
    task: TaskOption = "wikitext2",
    budget: Annotated[float, typer.Option(help="Seconds of training in a trial.")] = 300.0,
    alpha: Annotated[
        float, typer.Option(help="Highest chance that a campaign of useless changes keeps any.")
    ] = 0.05,
    horizon: Annotated[
        int,
        typer.Option(help="Expected number of confirmations; most of alpha is split over them."),
    ] = 20,
    seeds: Annotated[
        int, typer.Option(min=2, help="Seeds of a confirmation, and of the final evaluation.")
    ] = 5,
    tokens: Annotated[
        int,
        typer.Option(
            help="Training tokens of a confirmation run. 0: as many as the first program reaches "
            "within its budget."
        ),
    ] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads of a trial. 0: all cores.")] = 0,
    memory: Annotated[str, typer.Option(help="Memory limit of a trial.")] = "8GB",
    device: Annotated[str, typer.Option(help="Device of a trial: cpu, cuda or mps.")] = "cpu",
    window: Annotated[int, typer.Option(help="Tokens per training row.")] = 256,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
) -> None:
    """Start a campaign: create its branch, worktree, text split and ledger."""
    import os

    from lowbit.core.byte_sizes import parse_bytes
    from lowbit.research import actions
    from lowbit.research.campaign.settings import CampaignSettings

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
    _print_start(folder, tag, actions.init(folder, settings, dry_run), dry_run)


def _print_start(folder: str, tag: str, start: dict[str, Any], dry_run: bool) -> None:
    """Print the branch and the text sizes of a new campaign, and what to do next."""
    from rich.console import Console
    from rich.markup import escape

    from lowbit.research.campaign.settings import Places, campaign_folder

    say = Console(highlight=False).print
    places = Places(campaign_folder(folder), tag)
    say(f"{'would start' if dry_run else 'started'}: branch {escape(start['branch'])}")
    for name, text in start.get("texts", {}).items():
        size = text.get("rows") or text["articles"]
        say(f"  {name:<20}{size:,} {'rows' if 'rows' in text else 'articles'}")
    say(f"to try your own edits, edit {escape(str(places.tree / 'train.py'))}", soft_wrap=True)
    say(f"to let a proposer edit: lowbit research run {escape(folder)} --tag {escape(tag)}")


@app.command()
@guarded
def run(
    folder: FolderArgument = ".",
    tag: TagOption = None,
    proposer: Annotated[
        str, typer.Option(help='Who edits: builtin, random, command:"LINE" or openai:URL.')
    ] = "builtin",
    trials: Annotated[
        int | None, typer.Option(help="Trials to judge in total. Default: until interrupted.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials to run at a time.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the proposer.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
) -> None:
    """Let a proposer edit train.py; try every edit and keep what a test confirms."""
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
        bool, typer.Option("--looked", help="You have checked what stopped the loop.")
    ] = False,
) -> None:
    """Continue an interrupted campaign with the options of its last run."""
    from lowbit.research import actions
    from lowbit.research.report.console import Screen

    with Screen() as screen:
        ended = actions.resume(_at(folder, tag, watch=screen), looked)
    typer.echo(ended)


@app.command()
@guarded
def trial(
    folder: FolderArgument = ".",
    message: Annotated[
        str, typer.Option("-m", "--message", help="Description of the change.")
    ] = "",
    tag: TagOption = None,
) -> None:
    """Try your edit of train.py in the worktree; keep it or roll it back."""
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
    last: Annotated[bool, typer.Option("--last", help="Also undo the newest keep.")] = False,
) -> None:
    """Drop your edit of train.py in the worktree. Commits of earlier trials stay."""
    from lowbit.research import actions

    typer.echo(actions.rollback(_at(folder, tag), last))


@app.command()
@guarded
def report(
    folder: FolderArgument = ".",
    tag: TagOption = None,
    ending: Annotated[
        bool,
        typer.Option("--ending", help="First run the final evaluation, and close the campaign."),
    ] = False,
    against: Annotated[
        list[str] | None, typer.Option(help="Tag of another campaign to compare with. Repeatable.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time in the final evaluation.")] = 1,
    early: Annotated[
        bool, typer.Option("--early", help="Close it before all its trials are judged.")
    ] = False,
) -> None:
    """Write the report of a campaign: HTML page, chart, results table and cost.

    --ending first measures the gains on fresh seeds and on the sealed text.
    The sealed text can be opened only once: no trial is accepted afterwards.
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
    """Show the running trial, the best program so far, noise, alpha spent and cost."""
    import time

    from rich.console import Console

    from lowbit.research.report.console import status as print_status
    from lowbit.research.session import is_running

    campaign = _at(folder, tag)
    state = campaign.state()
    console = Console(highlight=False)
    print_status(console, campaign.places, state, time.time(), is_running(campaign.places))


@app.command()
@guarded
def mcp(folder: FolderArgument = ".", tag: TagOption = None) -> None:
    """Offer these commands as MCP tools over standard input and output, for this folder only."""
    from lowbit.research.mcp_server import server

    server(folder, tag).run("stdio")


def _at(folder: str, tag: str | None, **more: Any) -> Any:
    from lowbit.research.session import Campaign

    return Campaign.at(folder, tag, **more)


def _preview(campaign: Any, proposer: str, trials: int | None, jobs: int, seed: int) -> None:
    """Print what `run` would do."""
    from lowbit.research import actions

    for line in actions.preview(campaign, proposer, trials, jobs, seed):
        typer.echo(line)
