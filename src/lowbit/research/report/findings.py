"""The results of a campaign in numbers: gains with intervals, ablations, losses per trial.

All functions are pure functions of a state. A gain is the fall of the loss in nats per token, so
positive is better. Its interval comes from resampling seeds and articles together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lowbit.core.paired_tests import Difference
from lowbit.research.campaign.edits import DIALS, PRIORITIES
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.significance import compare
from lowbit.research.campaign.state import CampaignState, Role, Trial
from lowbit.research.judging.run_cache import matrix

OTHER = "other changes"
PRIORITY_OF = {dial.name: dial.priority for dial in DIALS}


@dataclass(frozen=True)
class PriorityTrials:
    """The judged trials of one priority of program.md."""

    title: str
    trials: tuple[Trial, ...]

    @property
    def keeps(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.status == "keep")


@dataclass(frozen=True)
class FinalEvaluation:
    """The best program compared with the first program. A gain is None if a run is missing.

    Attributes:
        claimed: Gain on confirmation text, on the seeds that decided the keeps.
        fresh: Gain on confirmation text, on fresh seeds.
        sealed: Gain on the sealed text, on fresh seeds.
        sealed_perplexity: Of the best and of the first program, over fresh seeds.
        bits: Bits a weight of the best and of the first program in screening.
    """

    claimed: Difference | None
    fresh: Difference | None
    sealed: Difference | None
    sealed_perplexity: tuple[float, float] | None
    bits: tuple[float, float] | None = None

    @property
    def shrinkage(self) -> float | None:
        """Share of the claimed gain that is missing on fresh seeds."""
        if self.claimed is None or self.fresh is None or self.claimed.estimate <= 0:
            return None
        return 1 - self.fresh.estimate / self.claimed.estimate


def trials_by_priority(
    state: CampaignState, edited: dict[int, Sequence[str]]
) -> list[PriorityTrials]:
    """Group the judged trials by priority. `edited`: the dials that each trial changed."""
    by_title: dict[str, list[Trial]] = {title: [] for title in (*PRIORITIES.values(), OTHER)}
    for trial in state.judged_trials:
        numbers = {PRIORITY_OF[name] for name in edited[trial.number] if name in PRIORITY_OF}
        title = PRIORITIES[min(numbers)] if len(numbers) == 1 else OTHER
        by_title[title].append(trial)
    groups = [PriorityTrials(title, tuple(trials)) for title, trials in by_title.items()]
    return [group for group in groups if group.trials or group.title != OTHER]


def runs(
    state: CampaignState, commit: str, role: Role, seeds: Iterable[int]
) -> list[RunResult] | None:
    """The runs of a commit on these seeds; None if one is missing or failed."""
    results = [state.runs.get((commit, role, seed)) for seed in seeds]
    good = [run for run in results if run is not None and not run.reason]
    return good if len(good) == len(results) else None


def gain(state: CampaignState, ours: str, theirs: str, role: Role, text: str) -> Difference | None:
    """Gain of one commit over another on the same seeds; None if a run is missing."""
    seeds = state.settings.confirmation_seeds if role == "confirm" else state.settings.fresh
    own, other = runs(state, ours, role, seeds), runs(state, theirs, role, seeds)
    if ours == theirs or own is None or other is None:
        return None
    return _gain(own, other, text)


def _gain(ours: Sequence[RunResult], theirs: Sequence[RunResult], text: str) -> Difference:
    return compare(matrix(ours, text), matrix(theirs, text))


SAME_SETTINGS = ("model", "task", "budget", "fresh", "window", "confirm", "threads", "device")


def mismatches(ours: CampaignState, theirs: CampaignState) -> list[str]:
    """Differences that make two campaigns incomparable; empty if they are comparable."""
    names = [
        key for key in SAME_SETTINGS if getattr(ours.settings, key) != getattr(theirs.settings, key)
    ]
    if not names and ours.baseline() and theirs.baseline() and ours.tokens() != theirs.tokens():
        names.append(f"tokens of a confirmation ({ours.tokens():,}, {theirs.tokens():,})")
    if ours.start["texts"] != theirs.start["texts"]:
        names.append("texts")
    return names


def gain_over_campaign(ours: CampaignState, theirs: CampaignState) -> Difference | None:
    """Gain of one campaign's best program over another's: sealed text, same fresh seeds."""
    if mismatches(ours, theirs):
        return None
    seeds = ours.settings.fresh
    own = runs(ours, ours.incumbent, "fresh", seeds)
    other = runs(theirs, theirs.incumbent, "fresh", seeds)
    return None if own is None or other is None else _gain(own, other, "sealed")


def final_evaluation(state: CampaignState) -> FinalEvaluation | None:
    """The final evaluation; None until the campaign is closed."""
    if state.ending is None:
        return None
    pair = (state.incumbent, state.base)
    both = [runs(state, commit, "fresh", state.settings.fresh) for commit in pair]
    losses = [
        sum(run.scores["sealed"].loss for run in results) / len(results)
        for results in both
        if results
    ]
    perplexities = tuple(math.exp(min(700.0, loss)) for loss in losses)
    screened = [state.screening_run(commit) for commit in pair]
    bits = [run.bits for run in screened if run is not None and run.bits is not None]
    return FinalEvaluation(
        gain(state, *pair, "confirm", "confirmation"),
        gain(state, *pair, "fresh", "confirmation"),
        gain(state, *pair, "fresh", "sealed"),
        (perplexities[0], perplexities[1]) if len(perplexities) == 2 else None,
        (bits[0], bits[1]) if len(bits) == 2 else None,
    )


def ablations(state: CampaignState) -> list[tuple[Trial, Difference | None]]:
    """By how much the loss rises without each kept change; None if that could not be run."""
    return [
        (
            state.trials[number],
            _ablation(state, commit) if commit else None,
        )
        for number, commit in state.ablations.items()
    ]


def _ablation(state: CampaignState, commit: str) -> Difference | None:
    """Gain of the best program over the same program without one kept change, on fresh seeds."""
    seeds = state.settings.fresh
    best = runs(state, state.incumbent, "fresh", seeds)
    without = runs(state, commit, "replay", seeds)
    return None if best is None or without is None else _gain(best, without, "confirmation")


def confirmed_losses(state: CampaignState) -> list[tuple[int, float]]:
    """(trial, mean confirmation loss) of the first program, as trial 0, and of every keep."""
    commits = [(0, state.base), *((n, state.trials[n].commit) for n in state.keeps)]
    losses = [(number, state.confirmation_losses(commit)) for number, commit in commits]
    return [(number, sum(each) / len(each)) for number, each in losses if each]


def screening_losses(state: CampaignState) -> list[tuple[int, float | None, str]]:
    """(trial, screening loss or None, status); the first program first, as trial 0."""
    points: list[tuple[int, float | None, str]] = []
    for number, commit, status in (
        (0, state.base, "keep"),
        *((t.number, t.commit, t.status or "") for t in state.judged_trials),
    ):
        run = state.screening_run(commit)
        scored = run is not None and not run.reason and status != "crash"
        points.append((number, run.scores["screening"].loss if run and scored else None, status))
    return points
