"""What the commands say, and the commands that only look: table, status, validation. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lowbit.engines.process import call
from lowbit.errors import RunError
from lowbit.record import CHECKPOINT, RECORD, Record, check_current, load
from lowbit.spec import DEMO_MODEL, Execution, RunSpec
from lowbit.study import Study


def out() -> Console:
    return Console()


def say(text: str, style: str = "") -> None:
    """A line as it is: what looks like markup in a name is no markup."""
    out().print(Text(text, style), highlight=False, soft_wrap=True)


def records(study: Study) -> list[tuple[Path, Record]]:
    """The finished runs of a study as it is declared now."""
    found = [(study.place(run), load(study.place(run)), run) for run in study.runs]
    return [(f, r) for f, r, run in found if r is not None and r.fingerprint == run.fingerprint]


def report(study: Study) -> None:
    """Table on the terminal; figures and page in the study's folder."""
    from lowbit import report as page
    from lowbit.table import render, rows

    runs = records(study)
    if not runs:
        old = any(load(study.place(run)) for run in study.runs)
        what = "no run with these settings" if old else "no finished run"
        raise RunError(f"{study.results} holds {what}: lowbit run {study.folder}")
    console = out()
    console.print(render(rows(runs), min(console.width, 120)))
    claims = [f"{c.text} ({c.test})" if c.test else c.text for c in study.claims]
    name = study.results.name.removeprefix("results").lstrip("-")
    folder = study.folder / f"profile-{name}" if name else study.folder
    command = f"lowbit report {study.folder.name}"
    written = page.write(folder, study.title, study.hypothesis, claims, runs, command)
    say(f"figures  {written.parent / 'figures'}")
    say(f"report   {written}")


def status(study: Study) -> None:
    table = Table(box=None, padding=(0, 1))
    for name in ("run", "state", "result"):
        table.add_column(name, overflow="fold")
    for run in study.runs:
        table.add_row(run.name, *_state(study, run))
    out().print(table)


def _state(study: Study, run: RunSpec) -> tuple[str, str]:
    folder = study.place(run)
    record = load(folder)
    if record is None:
        if (folder / RECORD).exists():
            return "torn", "will be done again"
        return (
            ("under way", "goes on from its checkpoint")
            if (folder / CHECKPOINT).exists()
            else (("begun", "no checkpoint yet") if folder.exists() else ("missing", ""))
        )
    if record.fingerprint != run.fingerprint:
        return "out of date", "recorded with other settings; --rerun replaces it"
    if record.status == "diverged":
        return "diverged", record.message
    return "done", f"{record.metric} {record.metrics[record.metric]:.4f}"


def check_runs(runs: Sequence[RunSpec], execution: Execution) -> str:
    """In a process: device, data and every plan against its model, before any run begins.

    Gives what `compute = "auto"` means here, for all of them alike; "" where none asks.
    """
    from lowbit.demo import blueprint
    from lowbit.device import set_up
    from lowbit.ready import plan_sites, prepare_run
    from lowbit.tasks.prepare import find

    found = {compute: set_up(execution, compute)[1] for compute in {r.train.compute for r in runs}}
    for run in {(r.model, r.task): r for r in runs}.values():
        if run.model == DEMO_MODEL:
            # Not made yet, perhaps: its shape is known without its weights.
            checkpoint, kind, labels = blueprint(), find(run.task.name, run.task).kind, 2
        else:
            start = prepare_run(run)
            checkpoint, kind, labels = start.checkpoint, start.task.kind, len(start.data.labels)
        for plan in {r.plan: r for r in runs if (r.model, r.task) == (run.model, run.task)}:
            plan_sites(plan, checkpoint, kind, labels)
    return found.get("auto", "")


def validate(study: Study) -> None:
    call(check_runs, study.runs, study.execution)
    for run in study.runs:
        found = load(study.place(run))
        if found is not None:
            check_current(study.place(run), found, run)
    say(f"{study.title}: {len(study.runs)} runs, {len(study.claims)} claims; all is well")
