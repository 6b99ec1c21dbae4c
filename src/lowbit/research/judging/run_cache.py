"""Runs that are wanted, taken from the ledger where they are there already.

Runs are done side by side; the thread that asked is the only one that writes. How long one may take
follows from what the program itself took: screening has the campaign's budget, a confirmation the
time that its tokens need at its own speed, twice over.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

from lowbit.research.campaign.ledger_writer import LedgerWriter
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import FIXED, MUTABLE, Places
from lowbit.research.campaign.state import BY_THE_CLOCK, Key, Role, State
from lowbit.research.candidate.sealed_run import Job, Runner

SLOWER = 2.0
"""How many times the time that its tokens need a confirmation may take: a slow minute passes."""
MOST_BUDGETS = 3.0
PASSING = ("timeout", "memory", "crash", "evaluator")
"""What may befall a good program on a bad day."""
ATTEMPTS = 3
"""How often a program that is known to run is tried in one call."""


class Runs:
    """What came of every run that was ever wanted."""

    def __init__(self, writer: LedgerWriter, places: Places, runner: Runner) -> None:
        self.writer, self.places, self.runner = writer, places, runner
        self._fixed = ""

    def anew(self, key: Key) -> RunResult:
        """What comes of it now, whatever came of it before."""
        for _ in range(ATTEMPTS):
            with ThreadPoolExecutor(1) as pool:
                self._guarded([key], 1, pool)
            if self.writer.state.runs[key].reason not in PASSING:
                break
        return self.writer.state.runs[key]

    def results(self, keys: Sequence[Key], jobs: int, again: bool = False) -> list[RunResult]:
        """What came of those runs, in that order; what is not in the ledger is run first.

        `again`: of programs that are known to run; what failed by the machine's fault is retried.
        """
        for _ in range(ATTEMPTS if again else 1):
            runs = self.writer.state.runs
            missing = [
                key
                for key in dict.fromkeys(keys)
                if key not in runs or (again and runs[key].reason in PASSING)
            ]
            with ThreadPoolExecutor(jobs) as pool:
                self._guarded(missing, jobs, pool)
        runs = self.writer.state.runs
        return [runs[key] for key in keys]

    def _guarded(self, missing: list[Key], jobs: int, pool: ThreadPoolExecutor) -> None:
        try:
            self._run(missing, jobs, pool)
        except BaseException:
            # The pool waits for its threads; whoever interrupts does not want to.
            getattr(self.runner, "cancel", _nothing)()
            raise

    def _run(self, missing: list[Key], jobs: int, pool: ThreadPoolExecutor) -> None:
        """At most `jobs` at a time; this thread alone writes the ledger."""
        under_way: dict[Any, Key] = {}
        waiting = list(missing)
        while waiting or under_way:
            while waiting and len(under_way) < jobs:
                job = self.job(waiting.pop(0))
                commit, role, seed = job.key
                self.writer.append("run", commit=commit, role=role, seed=seed, tokens=job.tokens)
                under_way[pool.submit(self.runner, job)] = job.key
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                commit, role, seed = under_way.pop(future)
                ran = future.result()
                self.writer.append("ran", commit=commit, role=role, seed=seed, ran=ran.to_json())

    def job(self, key: Key) -> Job:
        state = self.writer.state
        commit, role, _ = key
        settings = state.settings
        tokens = 0 if role in BY_THE_CLOCK else state.tokens()
        if not self._fixed:
            self._fixed = self.places.branch.show(state.base, self.places.path(FIXED))
        return Job(
            key,
            self.text(commit),
            self._fixed,
            settings.budget,
            tokens,
            _limit(state, commit, role),
        )

    def text(self, commit: str) -> str:
        return self.places.branch.show(commit, self.places.path(MUTABLE))


def _limit(state: State, commit: str, role: Role) -> float:
    """Seconds after which a run is killed: its training, and some room for everything else."""
    settings = state.settings
    measured = len(state.baseline()) == len(settings.seeds)
    room = max(20.0, 3 * state.overhead()) if measured else settings.grace
    if role in BY_THE_CLOCK:
        return settings.budget + room
    own = state.screened(commit)
    speed = own.tokens / own.trained if own and own.tokens and own.trained else 0.0
    needed = state.tokens() / speed if speed else settings.budget
    return room + min(SLOWER * needed, MOST_BUDGETS * settings.budget)


def _nothing() -> None:
    pass


def matrix(runs: Sequence[RunResult], part: str) -> tuple[list[list[float]], list[list[float]]]:
    """(sums, counts), each (seeds, articles)."""
    scores = [ran.scores[part] for ran in runs]
    return [list(seed.sums) for seed in scores], [list(seed.counts) for seed in scores]
