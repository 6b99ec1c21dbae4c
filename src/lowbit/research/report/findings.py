"""What a campaign found, in figures: gains with intervals, shrinkage, what each keep is worth.

Pure functions of a state. A gain is a fall of the loss in nats a token, so positive is better; its
interval comes from seeds and articles resampled together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lowbit.core.paired_tests import Difference
from lowbit.research.campaign.edits import DIALS, PRIORITIES
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.significance import compare
from lowbit.research.campaign.state import Role, State, Trial
from lowbit.research.judging.run_cache import matrix

OTHER = "something else"
PRIORITY_OF = {dial.name: dial.priority for dial in DIALS}


@dataclass(frozen=True)
class Part:
    """One of the program's priorities: what was tried of it, and what held."""

    title: str
    trials: tuple[Trial, ...]

    @property
    def held(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.status == "keep")


@dataclass(frozen=True)
class Ending:
    """None where there is nothing to compare. `claimed`: what the seeds that decided show."""

    claimed: Difference | None
    fresh: Difference | None
    sealed: Difference | None
    sealed_perplexity: tuple[float, float] | None
    """Of the winner and of the first program, on the sealed text, over fresh seeds."""
    bits: tuple[float, float] | None = None
    """A weight of each, as they were screened."""

    @property
    def shrinkage(self) -> float | None:
        """Share of the claimed gain that fresh seeds do not show."""
        if self.claimed is None or self.fresh is None or self.claimed.estimate <= 0:
            return None
        return 1 - self.fresh.estimate / self.claimed.estimate


def parts(state: State, edited: dict[int, Sequence[str]]) -> list[Part]:
    """Every judged trial under its priority; `edited`: the dials that each trial changed."""
    by_title: dict[str, list[Trial]] = {title: [] for title in (*PRIORITIES.values(), OTHER)}
    for trial in state.judged:
        numbers = {PRIORITY_OF[name] for name in edited[trial.number] if name in PRIORITY_OF}
        title = PRIORITIES[min(numbers)] if len(numbers) == 1 else OTHER
        by_title[title].append(trial)
    all_parts = [Part(title, tuple(trials)) for title, trials in by_title.items()]
    return [part for part in all_parts if part.trials or part.title != OTHER]


def runs(state: State, commit: str, role: Role, seeds: Iterable[int]) -> list[RunResult] | None:
    """All of those, where all are there and have scores."""
    results = [state.runs.get((commit, role, seed)) for seed in seeds]
    good = [ran for ran in results if ran is not None and not ran.reason]
    return good if len(good) == len(results) else None


def gain(state: State, ours: str, theirs: str, role: Role, part: str) -> Difference | None:
    """Of one commit over another, on the same seeds."""
    seeds = state.settings.confirming if role == "confirm" else state.settings.fresh
    own, other = runs(state, ours, role, seeds), runs(state, theirs, role, seeds)
    if ours == theirs or own is None or other is None:
        return None
    return _gain(own, other, part)


def _gain(ours: Sequence[RunResult], theirs: Sequence[RunResult], part: str) -> Difference:
    return compare(matrix(ours, part), matrix(theirs, part))


ALIKE = ("model", "task", "budget", "fresh", "window", "confirm", "threads", "device")


def unlike(ours: State, theirs: State) -> list[str]:
    """Why the winners of two campaigns may not be held against each other; empty where they may."""
    apart = [key for key in ALIKE if getattr(ours.settings, key) != getattr(theirs.settings, key)]
    if not apart and ours.baseline() and theirs.baseline() and ours.tokens() != theirs.tokens():
        apart.append(f"tokens of a confirmation ({ours.tokens():,}, {theirs.tokens():,})")
    if ours.begun["texts"] != theirs.begun["texts"]:
        apart.append("texts")
    return apart


def between(ours: State, theirs: State) -> Difference | None:
    """Gain of one campaign's winner over another's on the sealed text, the same fresh seeds."""
    if unlike(ours, theirs):
        return None
    seeds = ours.settings.fresh
    own = runs(ours, ours.incumbent, "fresh", seeds)
    other = runs(theirs, theirs.incumbent, "fresh", seeds)
    return None if own is None or other is None else _gain(own, other, "sealed")


def ending(state: State) -> Ending | None:
    """None until the campaign has been closed."""
    if state.ended is None:
        return None
    pair = (state.incumbent, state.base)
    both = [runs(state, commit, "fresh", state.settings.fresh) for commit in pair]
    losses = [
        sum(ran.scores["sealed"].loss for ran in results) / len(results)
        for results in both
        if results
    ]
    perplexities = tuple(math.exp(min(700.0, loss)) for loss in losses)
    screened = [state.screened(commit) for commit in pair]
    bits = [ran.bits for ran in screened if ran is not None and ran.bits is not None]
    return Ending(
        gain(state, *pair, "confirm", "confirmation"),
        gain(state, *pair, "fresh", "confirmation"),
        gain(state, *pair, "fresh", "sealed"),
        (perplexities[0], perplexities[1]) if len(perplexities) == 2 else None,
        (bits[0], bits[1]) if len(bits) == 2 else None,
    )


def worth(state: State) -> list[tuple[Trial, Difference | None]]:
    """Of each keep that was taken out of the winner: what the winner loses without it."""
    return [
        (
            state.trials[number],
            _without(state, commit) if commit else None,
        )
        for number, commit in state.without.items()
    ]


def _without(state: State, commit: str) -> Difference | None:
    """What the winner has over itself without a keep, on fresh seeds."""
    seeds = state.settings.fresh
    winner = runs(state, state.incumbent, "fresh", seeds)
    replay = runs(state, commit, "replay", seeds)
    return None if winner is None or replay is None else _gain(winner, replay, "confirmation")


def steps(state: State) -> list[tuple[int, float]]:
    """(trial, confirmation loss over its seeds) of the first program and of every keep."""
    commits = [(0, state.base), *((n, state.trials[n].commit) for n in state.keeps)]
    losses = [(number, state.confirmed(commit)) for number, commit in commits]
    return [(number, sum(each) / len(each)) for number, each in losses if each]


def losses(state: State) -> list[tuple[int, float | None, str]]:
    """(trial, screening loss or None, status) in the order of trials, the first program first."""
    points: list[tuple[int, float | None, str]] = []
    for number, commit, status in (
        (0, state.base, "keep"),
        *((t.number, t.commit, t.status or "") for t in state.judged),
    ):
        ran = state.screened(commit)
        scored = ran is not None and not ran.reason and status != "crash"
        points.append((number, ran.scores["screening"].loss if ran and scored else None, status))
    return points
