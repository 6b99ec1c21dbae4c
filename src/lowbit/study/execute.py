"""Runs the missing runs of a study, and single runs. Callbacks report progress.

Every run has a separate process, so no torch is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from lowbit.core.errors import RunError
from lowbit.core.execution import Execution
from lowbit.core.spec import DEMO_MODEL, Plan
from lowbit.runs.check import IN_A_STUDY, check_runs
from lowbit.runs.pack import drop
from lowbit.runs.record import RECORD, check_current
from lowbit.runs.request import Device, Settings, setting_lines, single_run
from lowbit.runs.store import FinishedRun, ResultsFolder
from lowbit.runs.workers.pool import PoolJob, PoolOptions, RunEnding, run_jobs
from lowbit.runs.workers.process import call, orphaned, require_main_guard
from lowbit.study.isolated_costs import measure_isolated_costs
from lowbit.study.study import Study, read_study

OnEnding = Callable[[RunEnding, int, int], None]
"""Called as a run ends, with the number of finished runs and of all runs."""
OnNote = Callable[[str], None]
"""Called with a sentence about the next step."""
IN_ADAPT = "lowbit adapt FOLDER"
"""How a single run names a model's folder, for error messages."""


def _ignore(*_: object) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a set of runs: runs at a time, whether to replace records, and callbacks."""

    jobs: int = 1
    rerun: bool = False
    show: Literal["bar", "nothing"] = "nothing"
    on_ending: OnEnding = _ignore
    on_note: OnNote = _ignore
    model_hint: str = IN_A_STUDY
    """How a user gives a model's folder; the error for an unknown model says so."""


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
) -> tuple[RunEnding, ...]:
    """Run the missing runs of a study. Finished runs are skipped, interrupted ones are resumed.

    Each run has its own process: a script must call this under `if __name__ == "__main__":`.

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
        How each run ended; runs that were finished before are not included.

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
    options = RunOptions(jobs, rerun, on_ending=on_ending)
    with one_process_per_folder(study.results, options.on_note):
        execution = execution_on(study, device)
        endings = run_missing(study, execution, missing_jobs(study, options), options)
        measure_isolated_costs(study, execution, options.on_note)
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
    """Fine-tune a model on a task with a plan, or return the finished run with these settings.

    The run has its own process: a script must call this under `if __name__ == "__main__":`.

    Args:
        model: A folder, a hub id, `assets:NAME` or `demo:tiny`.
        task: A task's name, or a file of text.
        plan: A plan's TOML file, a format like `nf4@64`, a name like `Joint-2`, or a plan.
        out: The folder for runs.
        seed: Seed of adapters, data order and dropout.
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
    options = RunOptions(rerun=rerun, model_hint=IN_ADAPT)
    return finished_or_raise(study, execute_single(study, device, options))


def single_run_study(
    model: str | Path,
    task: str,
    plan: str | Path | Plan,
    out: str | Path,
    seed: int,
    settings: Settings,
) -> Study:
    """A study of one run, with `out` as its results folder."""
    spec, execution = single_run(model, task, plan, seed, settings)
    return Study(Path(out), spec.name, "", (), (spec,), execution, Path(out))


def execute_single(study: Study, device: Device | None, options: RunOptions) -> list[RunEnding]:
    """Run a study of one run; return [] if it was finished before."""
    with one_process_per_folder(study.results, options.on_note):
        jobs = missing_jobs(study, options)
        return run_missing(study, execution_on(study, device), jobs, options)


def finished_or_raise(study: Study, endings: Sequence[RunEnding]) -> FinishedRun:
    """The finished run of a study of one run; raises its error if it failed."""
    finished = ResultsFolder(study.results).find(study.runs[0].name)
    if finished is None:
        (ending,) = endings
        error = RunError(f"{ending.job.run.name}: {ending.message.strip()}")
        error.exit_code = ending.exit_code
        raise error
    return finished


def run_missing(
    study: Study, execution: Execution, jobs: Sequence[PoolJob], options: RunOptions
) -> list[RunEnding]:
    """Check all runs of the study, then run these jobs."""
    if jobs:
        execution = check_all_runs(study, execution, options.model_hint)
        make_models(study, options.show == "bar")
    pool_options = PoolOptions(execution, options.jobs, options.rerun, show=options.show)
    total, endings = len(study.runs), []

    def on_ending(ending: RunEnding) -> None:
        endings.append(ending)
        options.on_ending(ending, total - len(jobs) + len(endings), total)

    # Runs that take another run's adapter start after all others have ended.
    run_jobs([job for job in jobs if job.run.adapter_run is None], pool_options, on_ending)
    run_jobs([job for job in jobs if job.run.adapter_run is not None], pool_options, on_ending)
    return endings


def missing_jobs(study: Study, options: RunOptions) -> list[PoolJob]:
    """Runs without an intact record; raises for a record with other settings unless `rerun`."""
    jobs, results = [], ResultsFolder(study.results)
    if options.rerun:
        drop(study.results, {run.name for run in study.runs})
    for run in study.runs:
        folder = study.run_folder(run)
        finished = None if options.rerun else results.find(run.name)
        if finished is None:
            if (folder / RECORD).exists() and not options.rerun:
                options.on_note(f"{folder.name}: its record is damaged; running it again")
            jobs.append(PoolJob(run, folder))
        else:
            check_current(folder, finished.record, run)
    # Seed by seed, so that the finished runs are always a balanced set.
    return sorted(jobs, key=lambda job: job.run.seed)


@contextmanager
def one_process_per_folder(results: Path, on_note: OnNote) -> Iterator[None]:
    """Lock a results folder for this process; wait while another process uses it."""
    require_main_guard()
    locks = results / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / "study.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_note(f"another process uses {results}; waiting until it has finished")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def execution_on(study: Study, device: Device | None) -> Execution:
    """The study's execution settings, with another device if one is given."""
    return replace(study.execution, device=device) if device else study.execution


def check_all_runs(study: Study, execution: Execution, model_hint: str = IN_A_STUDY) -> Execution:
    """Check all runs before any starts, and resolve `compute = "auto"` by one measurement."""
    return replace(execution, measured=call(check_runs, study.runs, execution, model_hint))


def make_models(study: Study, show: bool = False) -> None:
    """Pretrain the demo model if a run needs it and it is not cached."""
    if any(run.model == DEMO_MODEL for run in study.runs):
        call(make_model, DEMO_MODEL, show or sys.stderr.isatty())


def make_model(reference: str, show: bool) -> str:
    """Make sure that a model exists. Called in a separate process."""
    from lowbit.core.progress import bar
    from lowbit.runs.demo_model import model_folder

    with bar("pretraining demo:tiny", show, stop=orphaned) as on_step:
        return str(model_folder(reference, on_step))
