"""What a person at the terminal sees of a campaign: a line an event, a spinner, a status page."""

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
from lowbit.research.campaign.state import Key, State, Trial

COLOURS = {"keep": "green", "discard": "dim", "crash": "red"}


class Screen:
    """Tells events as they are written. A context: the spinner turns only inside it."""

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

    def __call__(self, state: State, kind: str, body: dict[str, Any]) -> None:
        teller = {
            "proposed": self._proposed,
            "run": self._run,
            "ran": self._ran,
            "judged": self._judged,
            "unproposed": self._unproposed,
            "sealed": self._opened,
        }.get(kind)
        if teller is not None:
            teller(state, body)

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=False)

    def _proposed(self, state: State, body: dict[str, Any]) -> None:
        self._say(f"[bold]trial {body['number']}[/]  {escape(body['description'])}")

    def _run(self, state: State, body: dict[str, Any]) -> None:
        key = (body["commit"], body["role"], body["seed"])
        self.tasks[key] = self.progress.add_task(f"{body['role']}, seed {body['seed']}")

    def _ran(self, state: State, body: dict[str, Any]) -> None:
        key = (body["commit"], body["role"], body["seed"])
        if key in self.tasks:
            self.progress.remove_task(self.tasks.pop(key))
        ran = RunResult.from_json(body["ran"])
        self._say(f"  {body['role']:<8}seed {body['seed']:<4}{summary(ran)}")

    def _judged(self, state: State, body: dict[str, Any]) -> None:
        trial = state.trials[body["number"]]
        self._say(f"  [{COLOURS[body['status']]}]{body['status']}[/]: {escape(why(trial))}")
        if "stop" in body:
            self._say(f"[red]stopped[/]: {escape(body['stop'])}")

    def _unproposed(self, state: State, body: dict[str, Any]) -> None:
        reason = " ".join(body["reason"].split())[:200]
        self._say(f"[red]{body['by']} failed[/], again in {body['pause']:g} s: {escape(reason)}")

    def _opened(self, state: State, body: dict[str, Any]) -> None:
        self._say("[bold]the sealed text is opened[/]: no trial may follow")


def summary(ran: RunResult) -> str:
    """A run in a few words."""
    if ran.reason:
        last = ran.detail.splitlines()[-1] if ran.detail else ""
        return f"{ran.reason} after {ran.seconds:.0f} s  {escape(last[:50])}"
    scores = next(iter(ran.scores.values()))
    return f"perplexity {perplexity(scores.loss)}  {ran.bits:.3f} bits  {ran.seconds:.0f} s"


def perplexity(loss: float) -> str:
    return f"{math.exp(loss):.3f}" if loss < 20 else f"e^{loss:.0f}"


def why(trial: Trial) -> str:
    """The reason, with the figures that it rests on."""
    more = []
    if trial.gain is not None:
        more.append(f"gain {trial.gain:+.4f} nats")
    if trial.p is not None and trial.alpha is not None:
        more.append(f"p {trial.p:.2g} against {trial.alpha:.2g}")
    if trial.unsealed and trial.status == "keep":
        more.append("UNSEALED: files were not out of reach")
    return ", ".join((trial.reason, *more))


def status(console: Console, places: Places, state: State, now: float, running: bool) -> None:
    """Everything that a person asks in the morning."""
    settings = state.settings
    console.print(f"[bold]{state.settings.tag}[/]  {escape(settings.model)}, "
                  f"{escape(settings.task)}, {settings.budget:g} s a trial")  # fmt: skip
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts(places, state, now, running):
        table.add_row(name, escape(value))
    console.print(table)


def facts(places: Places, state: State, now: float, running: bool) -> list[tuple[str, str]]:
    """(name, value) of what `status` shows."""
    counts = {
        name: sum(trial.status == name for trial in state.judged)
        for name in ("keep", "discard", "crash")
    }
    noise = state.noise()
    floor = (
        "not measured yet"
        if noise is None
        else f"{noise.sd:.4f} nats a run over {noise.seeds} seeds; "
        f"{state.tokens():,} tokens a confirmation"
    )
    return [
        ("running", _running(state, now) if running else _idle(state)),
        ("best so far", _best(state)),
        ("trials", ", ".join(f"{n} {name}" for name, n in counts.items())),
        ("noise", floor),
        (
            "alpha",
            f"{state.alpha_spent:.4f} of {state.settings.alpha:g} spent on "
            f"{state.confirmations} confirmation{'s' if state.confirmations != 1 else ''}",
        ),
        ("cost", f"{len(state.all_runs)} runs, {state.seconds / 3600:.2f} h of machine time"),
        ("isolation", next((ran.level for ran in state.runs.values()), "not known yet")),
        ("edit here", str(places.tree / MUTABLE)),
    ]


def _running(state: State, now: float) -> str:
    if not state.running:
        return "between runs"
    return "; ".join(
        f"{_name(state, key[0])}, {key[1]}, seed {key[2]}, for {max(0.0, now - at):.0f} s"
        for key, at in state.running
    )


def _idle(state: State) -> str:
    if state.stopped:
        return f"no: stopped. {state.stopped}"
    if state.ended is not None:
        return "no: the campaign has ended"
    if state.opened is not None or (state.without and state.running):
        return "no; its ending was interrupted: lowbit research report --ending"
    if state.running or state.open:
        return "no; a trial was interrupted: lowbit research resume"
    return "no"


def _name(state: State, commit: str) -> str:
    number = next((t.number for t in state.trials.values() if t.commit == commit), None)
    return "the program as it is" if number is None else f"trial {number}"


def _best(state: State) -> str:
    ran = state.screened(state.incumbent)
    if ran is None or ran.reason:
        return "nothing has been scored yet"
    loss = ran.scores["screening"].loss
    return (
        f"{_name(state, state.incumbent)}: perplexity {perplexity(loss)} on screening text, "
        f"{ran.bits:.3f} bits a weight, {state.incumbent[:7]}"
    )
