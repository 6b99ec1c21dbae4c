"""What the commands do, torch-free here: whatever needs torch happens in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from lowbit.engines.base import Cell, Ending, Order
from lowbit.engines.process import Failure, call, start
from lowbit.errors import RunError, UserError
from lowbit.record import RECORD, Record, check_current, load
from lowbit.spec import DEMO_MODEL, Execution, RunSpec
from lowbit.study import Study

CHECKPOINT = "checkpoint.safetensors"


def out() -> Console:
    return Console()


def say(text: str) -> None:
    out().print(text, highlight=False, soft_wrap=True)


# -- run -------------------------------------------------------------------------------------------


def carry_out(study: Study, jobs: int, device: str | None, rerun: bool) -> None:
    """Run what is not done yet, then report."""
    execution = _execution(study, device)
    with _alone(study.results):
        todo = _todo(study, rerun)
        kept = len(study.runs) - len(todo)
        if kept:
            say(f"{kept} of {len(study.runs)} runs are done already")
        if todo:
            call(check_runs, study.runs)
            _make_models(study)
        endings = _run(todo, Order(execution, jobs, rerun, _show(jobs)), len(study.runs), kept)
        report(study)
    _conclude(endings)


def _todo(study: Study, rerun: bool) -> list[Cell]:
    """Runs without a whole record; a record of other settings is refused unless `rerun`."""
    todo = []
    for run in study.runs:
        folder = study.place(run)
        found = None if rerun else load(folder)
        if found is None:
            if (folder / RECORD).exists() and not rerun:
                say(f"{folder.name}: its record is torn or incomplete; doing it again")
            todo.append(Cell(run, folder))
        else:
            check_current(folder, found, run)
    return todo


def _run(todo: list[Cell], order: Order, total: int, kept: int) -> list[Ending]:
    from lowbit.engines.local import ENGINE

    done = [kept]

    def told(ending: Ending) -> None:
        done[0] += 1
        say(f"[{done[0]}/{total}] {_line(ending)}")

    return ENGINE.carry_out(todo, order, told)


def _line(ending: Ending) -> str:
    name, record = ending.cell.run.name, ending.record
    if record is None:
        return f"{name}  FAILED: {ending.message.strip().splitlines()[-1]}"
    if record.status == "diverged":
        return f"{name}  DIVERGED: {record.message}"
    metrics = record.metrics
    value = f"{record.metric} {metrics[record.metric]:.4f}"
    extra = f", perplexity {metrics['perplexity']:.2f}" if "perplexity" in metrics else ""
    return (
        f"{name}  {value}{extra}  ({record.cost.wall_s:.0f} s, "
        f"{record.cost.tokens_per_s:,.0f} tokens/s)"
    )


def _conclude(endings: Sequence[Ending]) -> None:
    """The exit code of the worst; every failure said once more where it cannot be missed."""
    bad = [e for e in endings if e.exit_code]
    if not bad:
        return
    for ending in bad:
        sys.stderr.write(f"error: {ending.cell.run.name}: {ending.message.strip()}\n")
    error = RunError(f"{len(bad)} of {len(endings)} runs did not end well")
    error.exit_code = max(e.exit_code for e in bad)
    raise error


def _show(jobs: int) -> Literal["bar", "nothing"]:
    return "bar" if jobs == 1 and sys.stderr.isatty() else "nothing"


def _execution(study: Study, device: str | None) -> Execution:
    return replace(study.execution, device=cast(Any, device)) if device else study.execution


@contextmanager
def _alone(results: Path) -> Any:
    """One process at a time on one folder of results; the second says so and waits."""
    locks = results / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / "study.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process works on {results}; waiting until it is done")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_runs(runs: Sequence[RunSpec]) -> None:
    """In a process: every plan against its model, before any run begins."""
    from lowbit.models.loading import open_checkpoint, resolve
    from lowbit.run import plan_sites
    from lowbit.tasks.prepare import find

    for run in {(r.model, r.task, r.plan): r for r in runs}.values():
        task = find(run.task.name, run.task)
        if run.model != DEMO_MODEL:
            plan_sites(run.plan, open_checkpoint(resolve(run.model)), task.kind, 2)


def _make_models(study: Study) -> None:
    """Models that are made, not found: the demo's."""
    if any(run.model == DEMO_MODEL for run in study.runs):
        call(make_model, DEMO_MODEL, sys.stderr.isatty())


def make_model(reference: str, shown: bool) -> str:
    """In a process: make sure a model is there."""
    from lowbit.demo import model_folder
    from lowbit.progress import bar

    with bar("pretraining demo:tiny", shown) as watcher:
        return str(model_folder(reference, watcher))


# -- dry run ---------------------------------------------------------------------------------------


def dry_run(study: Study, device: str | None) -> None:
    """Exact bytes, and memory and time from ten steps on this machine; nothing is written."""
    execution = _execution(study, device)
    call(check_runs, study.runs)
    _make_models(study)
    table = Table(title=f"{study.title}: what each run would cost here", box=None, padding=(0, 1))
    for name in ("run", "stored", "train %", "steps", "s/step", "peak", "time"):
        table.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    seconds = 0.0
    cells: dict[Any, list[RunSpec]] = {}
    for run in study.runs:
        cells.setdefault((run.model, run.task, run.plan, run.train), []).append(run)
    for same in cells.values():
        seeds = f" x {len(same)} seeds" if len(same) > 1 else ""
        found = _probed(same[0], execution)
        name = "-".join(same[0].name.split("-")[:-1]) + seeds
        if isinstance(found, Failure):
            table.add_row(name, "–", "–", "–", "–", "–", "does not run")
            sys.stderr.write(f"error: {name}: {found.message}\n")
            continue
        seconds += found.total_s * len(same)
        table.add_row(
            name,
            f"{found.stored / 1e6:.2f} MB",
            f"{100 * found.share:.2f}",
            str(found.steps),
            f"{found.step_s:.3f}",
            f"{found.peak_bytes / 1e6:.0f} MB",
            clock(found.total_s),
        )
    out().print(table)
    say(f"all {len(study.runs)} runs one after another: about {clock(seconds)}. Bytes are exact;")
    say("peak (above the idle interpreter) and time are measured on ten steps of each plan.")


def _probed(run: RunSpec, execution: Execution) -> Any:
    return start(probe_run, run, execution).answer()


def probe_run(run: RunSpec, execution: Execution) -> Any:
    from lowbit.probe import probe

    return probe(run, execution)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


# -- one run ---------------------------------------------------------------------------------------


def adapt_one(study: Study, device: str | None, rerun: bool) -> None:
    """`lowbit adapt`: a study of one run, and where its results lie."""
    execution = _execution(study, device)
    with _alone(study.results):
        todo = _todo(study, rerun)
        if todo:
            _make_models(study)
        endings = _run(todo, Order(execution, 1, rerun, _show(1)), 1, 1 - len(todo))
    folder = study.place(study.runs[0])
    record = load(folder)
    if record is not None:
        _describe(folder, record)
    _conclude(endings)


def _describe(folder: Path, record: Record) -> None:
    from lowbit.table import render, rows

    out().print(render(rows([(folder, record)]), min(out().width, 120)))
    for note in record.facts.notes:
        say(f"[dim]{note}[/dim]")
    say(f"record   {folder / RECORD}")
    if record.status == "done":
        say(f"adapter  {folder / 'adapter'} (PEFT's format)")


# -- looking ---------------------------------------------------------------------------------------


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
        raise RunError(f"{study.results} holds no finished run: lowbit run {study.folder}")
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


def validate(study: Study) -> None:
    call(check_runs, study.runs)
    for run in study.runs:
        found = load(study.place(run))
        if found is not None:
            check_current(study.place(run), found, run)
    say(f"{study.title}: {len(study.runs)} runs, {len(study.claims)} claims; all is well")


# -- export and doctor -----------------------------------------------------------------------------


def export(folder: Path, to: Path, merge: bool) -> None:
    record = load(folder)
    if record is None or record.status != "done":
        raise UserError(f"{folder} holds no finished run")
    if to.exists() and any(to.iterdir()):
        raise UserError(f"{to} is not empty")
    call(export_run, folder, to, merge, record.spec)
    what = "base and adapter merged, on the decoded base" if merge else "the decoded base"
    say(f"wrote {to}: {what}")


def export_run(folder: Path, to: Path, merge: bool, spec: dict[str, Any]) -> None:
    from lowbit.run import export_plain

    export_plain(folder, to, merge, spec)


TOOLS = {
    "bitsandbytes": "the oracle of the nf4 parity tests, and a peer in the benchmark",
    "peft": "loads our adapters elsewhere; the oracle of the adapter parity tests",
    "datasets": "data from the hub (pip install 'lowbit[hub]')",
    "trackio": "live curves",
    "gguf": "export to llama.cpp",
}


def doctor() -> None:
    """Devices, speeds, memory, tools."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil

    found = call(speeds)
    say(f"python {platform.python_version()}, torch {found['torch']}, {platform.platform()}")
    say(f"{found['cpu']}, {psutil.cpu_count()} cores, {found['threads']} threads")
    memory = psutil.virtual_memory()
    say(f"memory {memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free")
    for name, speed in found["speeds"].items():
        better = "bf16" if speed["bf16"] > speed["fp32"] else "fp32"
        say(
            f"{name}: fp32 {speed['fp32']:,.0f} GFLOP/s, bf16 {speed['bf16']:,.0f} GFLOP/s: "
            f'compute = "auto" means {better}'
        )
    for tool, purpose in TOOLS.items():
        try:
            state = version(tool)
        except PackageNotFoundError:
            state = "not installed"
        say(f"{tool:13} {state:14} {purpose}")


def speeds() -> dict[str, Any]:
    """In a process: what torch sees and how fast it multiplies."""
    import torch

    from lowbit import device

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": device.cpu_name(),
        "speeds": {name: device.speed(torch.device(name)) for name in device.available()},
    }
