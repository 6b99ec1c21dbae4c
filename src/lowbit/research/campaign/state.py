"""The state of a campaign: trials, their runs, what is best so far. There is nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lowbit.research.campaign.results_tsv import Row, Status
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import Settings
from lowbit.research.campaign.significance import Noise, alpha_spent, noise_of

Role = Literal["screen", "again", "confirm", "replay", "fresh"]
BY_THE_CLOCK: tuple[Role, ...] = ("screen", "again")
Key = tuple[str, Role, int]
BASELINE = "baseline: the program as it is"


@dataclass(frozen=True)
class Trial:
    """One change. `commit` follows from the ledger; `status` None: not judged yet."""

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
    """Loss of the incumbent when it was screened again beside this trial."""
    unsealed: bool = False


@dataclass
class State:
    """Everything that is known of a campaign."""

    settings: Settings
    base: str
    begun: dict[str, Any]
    at: float
    incumbent: str
    trials: dict[int, Trial] = field(default_factory=dict)
    runs: dict[Key, RunResult] = field(default_factory=dict)
    replaced_runs: list[tuple[Key, RunResult]] = field(default_factory=list)
    """Runs in whose place another stands by now: they decide nothing, and cost what they cost."""
    running: list[tuple[Key, float]] = field(default_factory=list)
    keeps: list[int] = field(default_factory=list)
    confirmations: int = 0
    failures: int = 0
    """Of proposers, all of them."""
    stint: dict[str, Any] | None = None
    round: tuple[int, int] = (0, 0)
    """The last trial before it, and how many were wanted."""
    stopped: str = ""
    without: dict[int, str | None] = field(default_factory=dict)
    """Keep -> the winner's commit without it; None where later keeps stand on it."""
    opened: list[str] | None = None
    ended: dict[str, Any] | None = None
    last: float = 0.0

    @property
    def open(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.status is None]

    @property
    def judged(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.status is not None]

    @property
    def missing_proposals(self) -> int:
        """Proposals that a round still lacks, because a kill came between two of them."""
        after, requested = self.round
        proposed = [trial for trial in self.trials.values() if trial.number > after]
        judged = any(trial.status is not None for trial in proposed)
        return 0 if judged else max(0, requested - len(proposed))

    @property
    def next_number(self) -> int:
        return max(self.trials, default=0) + 1

    @property
    def alpha_spent(self) -> float:
        return alpha_spent(self.settings.alpha, self.confirmations, self.settings.horizon)

    @property
    def seconds(self) -> float:
        """Of machine time in runs, all of them."""
        return sum(ran.whole for _, ran in self.all_runs)

    @property
    def all_runs(self) -> list[tuple[Key, RunResult]]:
        return [*self.replaced_runs, *self.runs.items()]

    def baseline(self) -> list[RunResult]:
        """The unmodified program's screening runs, a seed each, as far as they are there."""
        keys: list[Key] = [(self.base, "screen", seed) for seed in self.settings.seeds]
        return [self.runs[key] for key in keys if key in self.runs]

    def confirmed(self, commit: str) -> list[float] | None:
        """Its losses on the confirmation's seeds, where it ran on all of them."""
        runs = [self.runs.get((commit, "confirm", seed)) for seed in self.settings.confirming]
        losses = [ran.scores["confirmation"].loss for ran in runs if ran and not ran.reason]
        return losses if len(losses) == len(runs) else None

    def noise(self) -> Noise | None:
        """The first program's on screening text; more where an incumbent's confirmations show it.

        A program that learns faster may scatter more than the one that the campaign began with.
        """
        screening = [ran.scores["screening"].loss for ran in self.baseline() if not ran.reason]
        if len(screening) < len(self.settings.seeds):
            return None
        noises = [noise_of(screening)]
        for commit in (self.base, *(self.trials[number].commit for number in self.keeps)):
            losses = self.confirmed(commit)
            if losses is not None:
                noises.append(noise_of(losses))
        return max(noises, key=lambda noise: noise.sd)

    def tokens(self) -> int:
        """What a confirmation trains on: the middle of what the clock let the first program see."""
        if self.settings.tokens:
            return self.settings.tokens
        counts = sorted(ran.tokens for ran in self.baseline())
        return counts[len(counts) // 2]

    def overhead(self) -> float:
        """The most that the first program took beside its training."""
        return max((ran.overhead for ran in self.baseline()), default=0.0)

    def screened(self, commit: str) -> RunResult | None:
        return self.runs.get((commit, "screen", self.settings.seeds[0]))

    def screening_gain(self, trial: Trial) -> float | None:
        """Of the loss against the trial's own incumbent on the screening seed, in nats."""
        ours = self.loss(trial.commit)
        theirs = self.loss(trial.base) if trial.against is None else trial.against
        return None if ours is None or theirs is None else theirs - ours

    def loss(self, commit: str) -> float | None:
        """On the screening seed, in nats; None where it has not run, or failed."""
        ran = self.screened(commit)
        return None if ran is None or ran.reason else ran.scores["screening"].loss

    def commit_of(self, trial: int) -> str:
        return self.base if trial == 0 else self.trials[trial].commit


def rows(state: State) -> list[Row]:
    """results.tsv: the baseline, then every judged trial, each with its screening score."""
    first = [_row(state, state.base, "keep", BASELINE, "")] if state.screened(state.base) else []
    return first + [
        _row(state, trial.commit, trial.status, trial.description, trial.reason)
        for trial in state.judged
        if trial.status is not None
    ]


def _row(state: State, commit: str, status: Status, description: str, reason: str) -> Row:
    import math

    ran = state.screened(commit)
    if ran is None or ran.reason or status == "crash":  # One seed's score of a crash is no score.
        return Row(
            commit, None, (ran.peak if ran else 0) / 2**30, status, description, None, reason
        )
    perplexity = math.exp(min(ran.scores["screening"].loss, 700.0))
    return Row(commit, perplexity, ran.peak / 2**30, status, description, ran.bits, reason)
