"""Returns results of runs: from the ledger if they are there, else by running them.

A run is identified by its key (commit, role, seed), so a killed campaign continues without doing a
run twice. Several runs can be in progress at a time, but only the calling thread writes the ledger.

The time limit of a run comes from earlier runs of the same campaign. A screening run has the
campaign's budget. A confirmation run has twice the time that its tokens need at the program's own
speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from lowbit.research.campaign.ledger_writer import LedgerWriter
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import FIXED, MUTABLE, Places
from lowbit.research.campaign.state import BY_THE_CLOCK, CampaignState, Key, Role
from lowbit.research.candidate.sealed_run import Runner, SealedJob

SLOWER = 2.0
"""A confirmation run may take this many times as long as expected, as a machine may be slow."""
MOST_BUDGETS = 3.0
"""But its training may take at most this many budgets."""
PASSING = ("timeout", "memory", "crash", "evaluator")
"""Reasons that may be the machine's fault and not the program's."""
ATTEMPTS = 3
"""How often one call tries a program that has run before."""


class RunCache:
    """Results of runs, by key."""

    def __init__(self, writer: LedgerWriter, places: Places, runner: Runner) -> None:
        self.writer, self.places, self.runner = writer, places, runner
        self._fixed = ""

    def rerun(self, key: Key) -> RunResult:
        """Run again even if the ledger has a result."""
        for _ in range(ATTEMPTS):
            with ThreadPoolExecutor(1) as pool:
                self._run_or_cancel([key], 1, pool)
            if self.writer.state.runs[key].reason not in PASSING:
                break
        return self.writer.state.runs[key]

    def results(self, keys: Sequence[Key], jobs: int, again: bool = False) -> list[RunResult]:
        """Results in the order of the keys; runs whatever the ledger does not have.

        `again`: for programs that have run before; failures that may be the machine's are retried.
        """
        for _ in range(ATTEMPTS if again else 1):
            runs = self.writer.state.runs
            missing = [
                key
                for key in dict.fromkeys(keys)
                if key not in runs or (again and runs[key].reason in PASSING)
            ]
            with ThreadPoolExecutor(jobs) as pool:
                self._run_or_cancel(missing, jobs, pool)
        runs = self.writer.state.runs
        return [runs[key] for key in keys]

    def _run_or_cancel(self, missing: list[Key], jobs: int, pool: ThreadPoolExecutor) -> None:
        try:
            self._run(missing, jobs, pool)
        except BaseException:
            # The pool waits for its threads, so an interrupt must first end their runs.
            getattr(self.runner, "cancel", _do_nothing)()
            raise

    def _run(self, missing: list[Key], jobs: int, pool: ThreadPoolExecutor) -> None:
        """Run at most `jobs` at a time; only this thread writes the ledger."""
        running: dict[Future[RunResult], Key] = {}
        waiting = list(missing)
        while waiting or running:
            while waiting and len(running) < jobs:
                job = self.job(waiting.pop(0))
                commit, role, seed = job.key
                self.writer.append("run", commit=commit, role=role, seed=seed, tokens=job.tokens)
                running[pool.submit(self.runner, job)] = job.key
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                commit, role, seed = running.pop(future)
                body = future.result().to_json()
                self.writer.append("ran", commit=commit, role=role, seed=seed, ran=body)

    def job(self, key: Key) -> SealedJob:
        """The texts, budget and time limit of a run."""
        state = self.writer.state
        commit, role, _ = key
        settings = state.settings
        tokens = 0 if role in BY_THE_CLOCK else state.tokens()
        if not self._fixed:
            self._fixed = self.places.branch.show(state.base, self.places.path(FIXED))
        return SealedJob(
            key,
            self.text(commit),
            self._fixed,
            settings.budget,
            tokens,
            _limit(state, commit, role),
        )

    def text(self, commit: str) -> str:
        """train.py of a commit."""
        return self.places.branch.show(commit, self.places.path(MUTABLE))


def _limit(state: CampaignState, commit: str, role: Role) -> float:
    """Seconds after which a run is killed: time for training plus time for everything else."""
    settings = state.settings
    has_baseline = len(state.baseline()) == len(settings.seeds)
    room = max(20.0, 3 * state.overhead()) if has_baseline else settings.grace
    if role in BY_THE_CLOCK:
        return settings.budget + room
    screening = state.screening_run(commit)
    has_speed = screening and screening.tokens and screening.trained
    speed = screening.tokens / screening.trained if screening and has_speed else 0.0
    expected = state.tokens() / speed if speed else settings.budget
    return room + min(SLOWER * expected, MOST_BUDGETS * settings.budget)


def _do_nothing() -> None:
    pass


def matrix(runs: Sequence[RunResult], part: str) -> tuple[list[list[float]], list[list[float]]]:
    """(sums, counts) of one part of the text, each of shape (seeds, articles)."""
    scores = [run.scores[part] for run in runs]
    return [list(seed.sums) for seed in scores], [list(seed.counts) for seed in scores]
