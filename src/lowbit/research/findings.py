"""What a campaign found, in figures: gains with intervals, shrinkage, what each keep is worth.

Pure functions of a state. A gain is a fall of the loss in nats a token, so positive is better; its
interval is of seeds and articles drawn together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lowbit.inference import Difference, Paired, bootstrap
from lowbit.research.edits import DIALS, PRIORITIES
from lowbit.research.judge import RESAMPLES
from lowbit.research.outcomes import Ran
from lowbit.research.running import matrix
from lowbit.research.state import Role, State, Trial

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

    @property
    def shrinkage(self) -> float | None:
        """Share of the claimed gain that fresh seeds do not show."""
        if self.claimed is None or self.fresh is None or self.claimed.estimate <= 0:
            return None
        return 1 - self.fresh.estimate / self.claimed.estimate


def parts(state: State, edited: dict[int, Sequence[str]]) -> list[Part]:
    """Every judged trial under its priority; `edited`: the dials that each trial changed."""
    found: dict[str, list[Trial]] = {title: [] for title in (*PRIORITIES.values(), OTHER)}
    for trial in state.judged:
        numbers = {PRIORITY_OF[name] for name in edited[trial.number] if name in PRIORITY_OF}
        title = PRIORITIES[min(numbers)] if len(numbers) == 1 else OTHER
        found[title].append(trial)
    kept = [Part(title, tuple(trials)) for title, trials in found.items()]
    return [part for part in kept if part.trials or part.title != OTHER]


def runs(state: State, commit: str, role: Role, seeds: Iterable[int]) -> list[Ran] | None:
    """All of those, where all are there and have scores."""
    found = [state.runs.get((commit, role, seed)) for seed in seeds]
    good = [ran for ran in found if ran is not None and not ran.reason]
    return good if len(good) == len(found) else None


def gain(state: State, ours: str, theirs: str, role: Role, part: str) -> Difference | None:
    """Of one commit over another, on the same seeds."""
    seeds = state.settings.fresh if role == "fresh" else state.settings.confirming
    one, two = runs(state, ours, role, seeds), runs(state, theirs, role, seeds)
    if ours == theirs or one is None or two is None:
        return None
    return _gain(one, two, part)


def _gain(ours: Sequence[Ran], theirs: Sequence[Ran], part: str) -> Difference:
    (sums, counts), (others, among) = (
        tuple(np.asarray(a, float) for a in matrix(r, part)) for r in (theirs, ours)
    )
    return bootstrap(Paired(sums, counts, others, among), np.random.default_rng(0), RESAMPLES)


def between(ours: State, theirs: State) -> Difference | None:
    """Gain of one campaign's winner over another's on the sealed text, the same fresh seeds."""
    alike = ("model", "task", "window", "fresh")
    if any(getattr(ours.settings, key) != getattr(theirs.settings, key) for key in alike):
        return None
    seeds = ours.settings.fresh
    one = runs(ours, ours.incumbent, "fresh", seeds)
    two = runs(theirs, theirs.incumbent, "fresh", seeds)
    return None if one is None or two is None else _gain(one, two, "sealed")


def ending(state: State) -> Ending | None:
    """None until the campaign has been closed."""
    if state.ended is None:
        return None
    pair = (state.incumbent, state.base)
    both = [runs(state, commit, "fresh", state.settings.fresh) for commit in pair]
    losses = [
        sum(ran.scores["sealed"].loss for ran in found) / len(found) for found in both if found
    ]
    perplexities = tuple(math.exp(min(700.0, loss)) for loss in losses)
    return Ending(
        gain(state, *pair, "confirm", "confirmation"),
        gain(state, *pair, "fresh", "confirmation"),
        gain(state, *pair, "fresh", "sealed"),
        (perplexities[0], perplexities[1]) if len(perplexities) == 2 else None,
    )


def worth(state: State) -> list[tuple[Trial, Difference | None]]:
    """Of each keep that was taken out of the winner: what the winner loses without it."""
    return [
        (
            state.trials[number],
            gain(state, state.incumbent, commit, "confirm", "confirmation") if commit else None,
        )
        for number, commit in state.without.items()
    ]


def losses(state: State) -> list[tuple[int, float | None, str]]:
    """(trial, screening loss or None, status) in the order of trials, the first program first."""
    found: list[tuple[int, float | None, str]] = []
    for number, commit, status in (
        (0, state.base, "keep"),
        *((t.number, t.commit, t.status or "") for t in state.judged),
    ):
        ran = state.screened(commit)
        scored = ran is not None and not ran.reason and status != "crash"
        found.append((number, ran.scores["screening"].loss if ran and scored else None, status))
    return found
