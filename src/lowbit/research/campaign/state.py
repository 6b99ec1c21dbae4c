"""State of a campaign: its trials, the runs of each program, and the incumbent.

The incumbent is the best program so far: the newest keep, or at first the unmodified program. The
state is computed from the ledger alone (`replay`), so a killed campaign continues with the same
state. Everything derived from it, such as the noise or the rows of results.tsv, is computed here on
demand and not stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lowbit.research.campaign.results_tsv import ResultsRow, Status
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import CampaignSettings
from lowbit.research.campaign.significance import Noise, alpha_spent, noise_of

Role = Literal["screen", "again", "confirm", "replay", "fresh"]
BY_THE_CLOCK: tuple[Role, ...] = ("screen", "again")
"""Roles with a budget in seconds; the other roles train on a fixed number of tokens."""
Key = tuple[str, Role, int]
"""(commit, role, seed): identifies a run."""
BASELINE = "baseline: the program as it is"


@dataclass(frozen=True)
class Trial:
    """One proposed edit and its result. `status` is None until the trial is judged."""

    number: int
    at: float
    base: str
    description: str
    edit: tuple[str, Any] | None = None
    by: str = "agent"
    cost: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    status: Status | None = None
    reason: str = ""
    gain: float | None = None
    p: float | None = None
    alpha: float | None = None
    confirmation: int | None = None
    against: float | None = None
    """Loss of the incumbent when it was screened again for this trial."""
    unsealed: bool = False
    """Whether files or network were within the candidate's reach in a run that decided."""


@dataclass
class CampaignState:
    """State of a campaign after the events of its ledger."""

    settings: CampaignSettings
    base: str
    """Commit of the unmodified program."""
    start: dict[str, Any]
    """Body of the campaign's first event."""
    at: float
    incumbent: str
    trials: dict[int, Trial] = field(default_factory=dict)
    runs: dict[Key, RunResult] = field(default_factory=dict)
    replaced_runs: list[tuple[Key, RunResult]] = field(default_factory=list)
    """Runs that were repeated later: they decide nothing, but their time counts."""
    running: list[tuple[Key, float]] = field(default_factory=list)
    keeps: list[int] = field(default_factory=list)
    confirmations: int = 0
    failures: int = 0
    """How often a proposer failed."""
    stint: dict[str, Any] | None = None
    """Arguments of the last `run`: proposer, trials, jobs, seed."""
    round: tuple[int, int] = (0, 0)
    """Number of the last trial before the current round, and the round's number of proposals."""
    stop_reason: str = ""
    """Why the loop waits for a user; empty if it does not."""
    ablations: dict[int, str | None] = field(default_factory=dict)
    """Keep -> the winner's commit without it; None if later keeps changed the same lines."""
    sealed_commits: list[str] | None = None
    """Commits to score on the sealed text; None until it is opened."""
    ending: dict[str, Any] | None = None
    """Body of the campaign's last event; None until it is closed."""
    last_at: float = 0.0
    """Time of the last event."""

    @property
    def open_trials(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.status is None]

    @property
    def judged_trials(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.status is not None]

    @property
    def missing_proposals(self) -> int:
        """How many proposals of the current round are missing, after a kill in the middle of it."""
        after, requested = self.round
        trials = [trial for trial in self.trials.values() if trial.number > after]
        has_verdict = any(trial.status is not None for trial in trials)
        return 0 if has_verdict else max(0, requested - len(trials))

    @property
    def next_number(self) -> int:
        return max(self.trials, default=0) + 1

    @property
    def alpha_spent(self) -> float:
        return alpha_spent(self.settings.alpha, self.confirmations, self.settings.horizon)

    @property
    def seconds(self) -> float:
        """Machine time of all runs."""
        return sum(run.total_seconds for _, run in self.all_runs)

    @property
    def all_runs(self) -> list[tuple[Key, RunResult]]:
        return [*self.replaced_runs, *self.runs.items()]

    def baseline(self) -> list[RunResult]:
        """Screening runs of the unmodified program, one a seed, without those still missing."""
        keys: list[Key] = [(self.base, "screen", seed) for seed in self.settings.seeds]
        return [self.runs[key] for key in keys if key in self.runs]

    def confirmation_losses(self, commit: str) -> list[float] | None:
        """A commit's losses on the confirmation seeds; None unless it has one for each."""
        seeds = self.settings.confirmation_seeds
        runs = [self.runs.get((commit, "confirm", seed)) for seed in seeds]
        losses = [run.scores["confirmation"].loss for run in runs if run and not run.reason]
        return losses if len(losses) == len(runs) else None

    def noise(self) -> Noise | None:
        """Largest seed noise of the unmodified program and of the kept programs.

        A program that learns faster may vary more than the first one. None until the unmodified
        program has a score on every seed.
        """
        screening = [run.scores["screening"].loss for run in self.baseline() if not run.reason]
        if len(screening) < len(self.settings.seeds):
            return None
        noises = [noise_of(screening)]
        for commit in (self.base, *(self.trials[number].commit for number in self.keeps)):
            losses = self.confirmation_losses(commit)
            if losses is not None:
                noises.append(noise_of(losses))
        return max(noises, key=lambda noise: noise.sd)

    def tokens(self) -> int:
        """Training tokens of a confirmation run.

        From the settings, or the median number that the first program reached in its budget.
        """
        if self.settings.tokens:
            return self.settings.tokens
        counts = sorted(run.tokens for run in self.baseline())
        return counts[len(counts) // 2]

    def overhead(self) -> float:
        """Most seconds that the first program took outside training."""
        return max((run.overhead for run in self.baseline()), default=0.0)

    def screening_run(self, commit: str) -> RunResult | None:
        """A commit's run on the screening seed."""
        return self.runs.get((commit, "screen", self.settings.seeds[0]))

    def screening_gain(self, trial: Trial) -> float | None:
        """How far a trial lowers its incumbent's loss on the screening seed, in nats."""
        loss = self.loss(trial.commit)
        reference = self.loss(trial.base) if trial.against is None else trial.against
        return None if loss is None or reference is None else reference - loss

    def loss(self, commit: str) -> float | None:
        """A commit's loss on the screening seed in nats; None if it has not run or has failed."""
        run = self.screening_run(commit)
        return None if run is None or run.reason else run.scores["screening"].loss

    def commit_of(self, trial: int) -> str:
        """Commit of a trial; trial 0 is the unmodified program."""
        return self.base if trial == 0 else self.trials[trial].commit


def rows(state: CampaignState) -> list[ResultsRow]:
    """Rows of results.tsv: the baseline and every judged trial, with their screening scores."""
    has_baseline = state.screening_run(state.base) is not None
    first = [_row(state, state.base, "keep", BASELINE, "")] if has_baseline else []
    return first + [
        _row(state, trial.commit, trial.status, trial.description, trial.reason)
        for trial in state.judged_trials
        if trial.status is not None
    ]


def _row(
    state: CampaignState, commit: str, status: Status, description: str, reason: str
) -> ResultsRow:
    import math

    run = state.screening_run(commit)
    memory = (run.peak if run else 0) / 2**30
    # A trial may crash after its screening; its screening score is then not shown.
    if run is None or run.reason or status == "crash":
        return ResultsRow(commit, None, memory, status, description, None, reason)
    perplexity = math.exp(min(run.scores["screening"].loss, 700.0))
    return ResultsRow(commit, perplexity, memory, status, description, run.bits, reason)
