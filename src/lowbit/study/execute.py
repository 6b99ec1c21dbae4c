"""Runs what a study lacks, and single runs. Nothing is printed: callbacks tell what happens. Every
run has a process of its own, so no torch is imported here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from lowbit.core.errors import LowbitError, RunError
from lowbit.core.execution import Execution
from lowbit.core.spec import DEMO_MODEL, Plan, RunSpec
from lowbit.runs import isolated_cost
from lowbit.runs.check import IN_A_STUDY, check_runs
from lowbit.runs.pack import drop
from lowbit.runs.record import RECORD, check_current
from lowbit.runs.request import Device, Settings, setting_lines, single
from lowbit.runs.run_cost import RunCost
from lowbit.runs.store import FinishedRun, ResultsFolder
from lowbit.runs.workers.pool import Ending, Job, Order, run_jobs
from lowbit.runs.workers.process import call, orphaned, require_main_guard
from lowbit.study.study import Study, read_study

OnEnding = Callable[[Ending, int, int], None]
"""Called as a run ends, with the number of finished runs and of all runs."""
OnNote = Callable[[str], None]
"""Called with a sentence about what is done next."""

IN_ADAPT = "lowbit adapt FOLDER"
"""Where a single run gets a model's folder, for error messages."""


def _ignore(*_: object) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class How:
    """How runs are carried out: runs at a time, whether records are replaced, who is told."""

    jobs: int = 1
    rerun: bool = False
    show: Literal["bar", "nothing"] = "nothing"
    on_ending: OnEnding = _ignore
    on_note: OnNote = _ignore
    model_hint: str = IN_A_STUDY
    """Where a user gives a model's folder, for the error when the name leads nowhere."""


def run_study(
    study: str | Path | Study,
    *,
    profile: str | None = None,
    settings: Settings = (),
    seeds: Sequence[int] = (),
    only: Sequence[str] = (),
    jobs: int = 1,
    device: Device | None = None,
    rerun: bool = False,
    on_ending: OnEnding = _ignore,
) -> tuple[Ending, ...]:
    """Run what a study lacks. Finished runs are skipped, interrupted ones are resumed.

    Runs have processes of their own: a script should call this under
    `if __name__ == "__main__":`.

    Args:
        study: The study's folder, its `study.toml`, or a study as `read_study` gives it. The
            arguments `profile`, `settings`, `seeds` and `only` belong to the first two.
        profile: A `[profile.NAME]` of the study.
        settings: Overrides like `{"train.lr": 1e-3}`.
        seeds: Other seeds than the declared ones.
        only: Globs that choose runs by name, plan, part, task or model.
        jobs: Runs at a time.
        device: Where to run, instead of the study's device.
        rerun: Replace finished runs.
        on_ending: Called as each run ends, with the number of finished runs and of all runs.

    Returns:
        How each run that was carried out ended; nothing for runs that were finished before.

    Raises:
        UserError: The study is not valid, or a record has other settings.

    Example:
        >>> from pathlib import Path
        >>> from lowbit import run_study
        >>> declaration = '''
        ... title = "Four bits"
        ... hypothesis = "Four bits cost little."
        ... plans = ["bf16", "nf4@64"]
        ... seeds = [0]
        ... train = { steps = 2 }
        ... task = { limit = 16, scored_limit = 16 }
        ... execution = { threads = 1 }
        ... [[workload]]
        ... model = "demo:tiny"
        ... task = "demo"
        ... '''
        >>> _ = Path("study.toml").write_text(declaration)
        >>> [ending.record.status for ending in run_study("study.toml")]
        ['done', 'done']
    """
    if not isinstance(study, Study):
        study = read_study(study, setting_lines(settings), profile, seeds, only)
    how = How(jobs, rerun, on_ending=on_ending)
    with only_process(study.results, how.on_note):
        execution = execution_on(study, device)
        endings = run_missing(study, execution, missing_jobs(study, how), how)
        time_alone(study, execution, how.on_note)
    return tuple(endings)


def adapt(
    model: str | Path,
    task: str,
    plan: str | Path | Plan,
    *,
    out: str | Path = "runs",
    seed: int = 0,
    settings: Settings = (),
    device: Device | None = None,
    rerun: bool = False,
) -> FinishedRun:
    """Fine-tune a model on a task with a plan. A finished run with these settings is returned.

    The run has a process of its own: a script should call this under
    `if __name__ == "__main__":`.

    Args:
        model: A folder, a hub id, `assets:NAME` or `demo:tiny`.
        task: A task's name, or a file of text.
        plan: A plan's TOML file, a format like `nf4@64`, a name like `Joint-2`, or a plan.
        out: The folder of runs.
        seed: Of adapters, data order and dropout.
        settings: Overrides like `{"train.lr": 1e-3, "task.limit": 2000}`.
        device: Where to run, instead of the settings' device.
        rerun: Replace a finished run.

    Returns:
        The run: its record, its folder with the PEFT adapter, its scores and its log.

    Raises:
        UserError: An argument is not valid, or the folder holds a run with other settings.
        RunError: The run failed.

    Example:
        >>> from lowbit import adapt
        >>> run = adapt("demo:tiny", "demo", "nf4@64",
        ...             settings={"train.steps": 2, "task.limit": 16, "execution.threads": 1})
        >>> run.record.status
        'done'
    """
    study = single_run_study(model, task, plan, out, seed, settings)
    how = How(rerun=rerun, model_hint=IN_ADAPT)
    return finished_or_raise(study, execute_single(study, device, how))


def single_run_study(
    model: str | Path,
    task: str,
    plan: str | Path | Plan,
    out: str | Path,
    seed: int,
    settings: Settings,
) -> Study:
    """One run as a study, whose results lie in the folder `out`."""
    spec, execution = single(model, task, plan, seed, settings)
    return Study(Path(out), spec.name, "", (), (spec,), execution, Path(out))


def execute_single(study: Study, device: Device | None, how: How) -> list[Ending]:
    """Carry out a study of one run; no ending where it was finished before."""
    with only_process(study.results, how.on_note):
        return run_missing(study, execution_on(study, device), missing_jobs(study, how), how)


def finished_or_raise(study: Study, endings: Sequence[Ending]) -> FinishedRun:
    """The finished run of a study of one run."""
    finished = ResultsFolder(study.results).find(study.runs[0].name)
    if finished is None:
        (ending,) = endings
        error = RunError(f"{ending.job.run.name}: {ending.message.strip()}")
        error.exit_code = ending.exit_code
        raise error
    return finished


def run_missing(study: Study, execution: Execution, jobs: Sequence[Job], how: How) -> list[Ending]:
    """Check all runs, then carry out these jobs."""
    if jobs:
        execution = checked(study, execution, how.model_hint)
        make_models(study, how.show == "bar")
    order = Order(execution, how.jobs, how.rerun, show=how.show)
    total, endings = len(study.runs), []
    before = total - len(jobs)

    def on_ending(ending: Ending) -> None:
        endings.append(ending)
        how.on_ending(ending, before + len(endings), total)

    # Runs that take another's adapter begin when all others have ended.
    run_jobs([job for job in jobs if job.run.lender is None], order, on_ending)
    run_jobs([job for job in jobs if job.run.lender is not None], order, on_ending)
    return endings


def missing_jobs(study: Study, how: How) -> list[Job]:
    """Runs without a whole record; a record of other settings is refused unless `how.rerun`."""
    jobs, results = [], ResultsFolder(study.results)
    if how.rerun:
        drop(study.results, {run.name for run in study.runs})
    for run in study.runs:
        folder = study.place(run)
        finished = None if how.rerun else results.find(run.name)
        if finished is None:
            if (folder / RECORD).exists() and not how.rerun:
                how.on_note(f"{folder.name}: its record is torn or incomplete; doing it again")
            jobs.append(Job(run, folder))
        else:
            check_current(folder, finished.record, run)
    # Seed by seed, so that whatever is finished is a balanced set.
    return sorted(jobs, key=lambda job: job.run.seed)


def time_alone(study: Study, execution: Execution, on_note: OnNote) -> None:
    """A few steps of each configuration alone, where its runs' own cost says too little."""

    def probe(run: RunSpec, execution: Execution, timed: bool) -> RunCost:
        return call(measure_run, run, execution, timed)

    results = ResultsFolder(study.results)
    for run in study.runs:
        finished = results.find(run.name)
        if finished is None or run.plan.adapter:
            continue
        if not isolated_cost.missing(finished.record, finished.isolated_cost):
            continue
        on_note(f"timing alone  {isolated_cost.name(run)}")
        try:
            isolated_cost.write(study.place(run), run, isolated_cost.measure(probe, run, execution))
        except LowbitError as error:
            on_note(f"  not timed: {error}")


@contextmanager
def only_process(results: Path, on_note: OnNote) -> Iterator[None]:
    """One process at a time works on a folder of results; a second one waits."""
    require_main_guard()
    locks = results / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / "study.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_note(f"another process works on {results}; waiting until it is done")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def execution_on(study: Study, device: Device | None) -> Execution:
    """The study's execution, on another device where one is given."""
    return replace(study.execution, device=device) if device else study.execution


def checked(study: Study, execution: Execution, model_hint: str = IN_A_STUDY) -> Execution:
    """Check all runs before any begins, and measure once what `compute = "auto"` means."""
    compute = call(check_runs, study.runs, execution, model_hint)
    return replace(execution, measured=compute)


def make_models(study: Study, show: bool = False) -> None:
    """Pretrain the demo model where a run needs it and it is not cached."""
    if any(run.model == DEMO_MODEL for run in study.runs):
        call(make_model, DEMO_MODEL, show or sys.stderr.isatty())


def make_model(reference: str, show: bool) -> str:
    """Make sure that a model exists; runs in a process of its own."""
    from lowbit.core.progress import bar
    from lowbit.runs.demo_model import model_folder

    with bar("pretraining demo:tiny", show, stop=orphaned) as watcher:
        return str(model_folder(reference, watcher))


def measure_run(run: RunSpec, execution: Execution, timed: bool = True) -> RunCost:
    """Measure what a run costs; runs in a process of its own."""
    from lowbit.runs.dry_run import measure_cost

    return measure_cost(run, execution, timed)
