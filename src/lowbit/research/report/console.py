"""Terminal output of a campaign: one line per event, a spinner, and the status table."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import MUTABLE, Places
from lowbit.research.campaign.state import CampaignState, Key, Trial

PAST = {"keep": "kept", "discard": "discarded", "crash": "crashed"}
COLOURS = {"keep": "green", "discard": "dim", "crash": "red"}


class Screen:
    """Prints the events of a campaign as they are written; a context that shows a spinner."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self.progress = Progress(*columns, console=self.console, transient=True)
        self.tasks: dict[Key, Any] = {}

    def __enter__(self) -> Screen:
        self.progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.__exit__(kind, value, trace)

    def __call__(self, state: CampaignState, kind: str, body: dict[str, Any]) -> None:
        handler = {
            "proposed": self._proposed,
            "run": self._run,
            "ran": self._ran,
            "judged": self._judged,
            "unproposed": self._unproposed,
            "sealed": self._sealed_text_opened,
        }.get(kind)
        if handler is not None:
            handler(state, body)

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=False)

    def _proposed(self, state: CampaignState, body: dict[str, Any]) -> None:
        self._say(f"[bold]trial {body['number']}[/]  {escape(body['description'])}")

    def _run(self, state: CampaignState, body: dict[str, Any]) -> None:
        key = (body["commit"], body["role"], body["seed"])
        self.tasks[key] = self.progress.add_task(f"{body['role']}, seed {body['seed']}")

    def _ran(self, state: CampaignState, body: dict[str, Any]) -> None:
        key = (body["commit"], body["role"], body["seed"])
        if key in self.tasks:
            self.progress.remove_task(self.tasks.pop(key))
        run = RunResult.from_json(body["ran"])
        self._say(f"  {body['role']:<8}seed {body['seed']:<4}{summary(run)}")

    def _judged(self, state: CampaignState, body: dict[str, Any]) -> None:
        trial = state.trials[body["number"]]
        self._say(f"  [{COLOURS[body['status']]}]{body['status']}[/]: {escape(why(trial))}")
        if "stop" in body:
            self._say(f"[red]stopped[/]: {escape(body['stop'])}")

    def _unproposed(self, state: CampaignState, body: dict[str, Any]) -> None:
        reason = " ".join(body["reason"].split())[:200]
        self._say(f"[red]{body['by']} failed[/], next try in {body['pause']:g} s: {escape(reason)}")

    def _sealed_text_opened(self, state: CampaignState, body: dict[str, Any]) -> None:
        self._say("[bold]the sealed text is opened[/]: no trial can follow")


def summary(run: RunResult) -> str:
    """One line about a run: its scores, or why it failed."""
    if run.reason:
        last = run.detail.splitlines()[-1] if run.detail else ""
        return f"{run.reason} after {run.seconds:.0f} s  {escape(last[:50])}"
    scores = next(iter(run.scores.values()))
    return f"perplexity {perplexity(scores.loss)}  {run.bits:.3f} bits  {run.seconds:.0f} s"


def perplexity(loss: float) -> str:
    return f"{math.exp(loss):.3f}" if loss < 20 else f"e^{loss:.0f}"


def why(trial: Trial) -> str:
    """The reason of a decision, with gain, p-value and alpha."""
    more = []
    if trial.gain is not None:
        more.append(f"gain {trial.gain:+.4f} nats")
    if trial.p is not None and trial.alpha is not None:
        more.append(f"p {trial.p:.2g} at alpha {trial.alpha:.2g}")
    if trial.unsealed and trial.status == "keep":
        more.append("UNSEALED: files or the network were within reach")
    return ", ".join((trial.reason, *more))


def status(
    console: Console, places: Places, state: CampaignState, now: float, running: bool
) -> None:
    """Print the state of a campaign as a table."""
    settings = state.settings
    console.print(f"[bold]{state.settings.tag}[/]  {escape(settings.model)}, "
                  f"{escape(settings.task)}, {settings.budget:g} s a trial")  # fmt: skip
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts(places, state, now, running):
        table.add_row(name, escape(value))
    console.print(table)


def facts(places: Places, state: CampaignState, now: float, running: bool) -> list[tuple[str, str]]:
    """(name, value) pairs that `lowbit research status` and the page show."""
    counts = {
        name: sum(trial.status == name for trial in state.judged_trials)
        for name in ("keep", "discard", "crash")
    }
    noise = state.noise()
    noise_text = (
        "not measured yet"
        if noise is None
        else f"standard deviation {noise.sd:.4f} nats over {noise.seeds} seeds; "
        f"{state.tokens():,} tokens per confirmation run"
    )
    return [
        ("state", _running(state, now) if running else _idle(state)),
        ("best so far", _best(state)),
        ("trials", ", ".join(f"{n} {PAST[name]}" for name, n in counts.items())),
        ("noise", noise_text),
        (
            "alpha",
            f"{state.alpha_spent:.4f} of {state.settings.alpha:g} spent on "
            f"{state.confirmations} confirmation{'s' if state.confirmations != 1 else ''}",
        ),
        ("cost", f"{len(state.all_runs)} runs, {state.seconds / 3600:.2f} h of machine time"),
        (
            "isolation",
            next((run.level for run in state.runs.values()), "not known before the first run"),
        ),
        ("edit here", str(places.tree / MUTABLE)),
    ]


def _running(state: CampaignState, now: float) -> str:
    if not state.running:
        return "running; between two runs"
    return "running: " + "; ".join(
        f"{_name(state, key[0])}, {key[1]}, seed {key[2]}, for {max(0.0, now - at):.0f} s"
        for key, at in state.running
    )


def _idle(state: CampaignState) -> str:
    if state.stop_reason:
        return f"stopped: {state.stop_reason}"
    if state.ending is not None:
        return "the campaign has ended"
    if state.sealed_commits is not None or (state.ablations and state.running):
        return "the final evaluation was interrupted; to continue: lowbit research report --ending"
    if state.running or state.open_trials:
        return "a trial was interrupted; to continue: lowbit research resume"
    return "not running"


def _name(state: CampaignState, commit: str) -> str:
    number = next((t.number for t in state.trials.values() if t.commit == commit), None)
    return "first program" if number is None else f"trial {number}"


def _best(state: CampaignState) -> str:
    run = state.screening_run(state.incumbent)
    if run is None or run.reason:
        return "nothing scored yet"
    loss = run.scores["screening"].loss
    return (
        f"{_name(state, state.incumbent)}: perplexity {perplexity(loss)} on screening text, "
        f"{run.bits:.3f} bits a weight, {state.incumbent[:7]}"
    )
