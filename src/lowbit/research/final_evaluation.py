"""The honest end of a campaign: each keep taken out once, fresh seeds, the sealed text.

All of it goes through the ledger, so it can be killed and gone on with like everything else. The
sealed text is opened after whatever else could still have decided something, and is opened once.
"""

from __future__ import annotations

from lowbit.core.errors import RunError, UserError
from lowbit.research.campaign import edits
from lowbit.research.campaign.settings import MUTABLE, facts
from lowbit.research.campaign.state import CampaignState, Key, Trial
from lowbit.research.judging.run_cache import PASSING
from lowbit.research.loop import Loop

MOST_REPLAYS = 5


def end(loop: Loop, jobs: int = 1, early: bool = False) -> None:
    """Close a campaign; where it is closed already, nothing is done."""
    state = loop.state
    if state.ending is not None:
        return
    _check(state, early)
    _replays(loop, jobs)
    state = loop.state
    commits = list(dict.fromkeys((state.incumbent, state.base)))
    if state.sealed_commits is None:
        loop.writer.append("sealed", commits=commits)
    fresh: list[Key] = [(c, "fresh", seed) for seed in state.settings.fresh for c in commits]
    results = loop.runs.results(fresh, jobs, again=True)
    for (commit, _, seed), ran in zip(fresh, results, strict=True):
        if ran.reason in PASSING:
            which = "the winner" if commit == state.incumbent else "the first program"
            raise RunError(
                f"{which} did not run on fresh seed {seed} ({ran.reason}), which may be the "
                f"machine's fault: the same command tries again. {ran.detail}"
            )
    loop.writer.append("ended", winner=state.incumbent, base=state.base, facts=facts())
    loop.settle()


def _check(state: CampaignState, early: bool) -> None:
    """What is over cannot be gone on with, so it has to be meant."""
    if state.stop_reason or state.open_trials:
        raise UserError("a trial is open or the loop has stopped: lowbit research resume first")
    if len(state.baseline()) < len(state.settings.seeds):
        raise UserError("nothing has been run: there is nothing to end")
    requested = (state.stint or {}).get("trials") or 0
    if len(state.judged_trials) < requested and not early:
        raise UserError(
            f"{len(state.judged_trials)} of {requested} trials are judged, and none may follow an "
            "ending: lowbit research resume goes on, --early ends it as it is"
        )


def _replays(loop: Loop, jobs: int) -> None:
    """The winner without each of its newest keeps, on the fresh seeds that the winner meets."""
    state = loop.state
    for number in state.keeps[-MOST_REPLAYS:]:
        if number not in loop.state.ablations:
            loop.writer.append(
                "without", number=number, commit=_without_keep(loop, state.trials[number])
            )
    commits = [commit for commit in loop.state.ablations.values() if commit is not None]
    seeds = state.settings.fresh
    keys: list[Key] = [(commit, "replay", seed) for commit in commits for seed in seeds]
    loop.runs.results(keys, jobs, again=True)


def _without_keep(loop: Loop, trial: Trial) -> str | None:
    """A commit of the winner without one keep; None where a later one changed the same place."""
    state, branch = loop.state, loop.branch
    winner, before = loop.runs.text(state.incumbent), loop.runs.text(trial.base)
    if trial.edit is not None:
        name, value = trial.edit
        if edits.constants(winner).get(name) != value:
            return None
        text: str | None = edits.change(winner, name, edits.constants(before)[name])
    else:
        text = branch.merge(loop.runs.text(trial.commit), winner, before)
    if text is None or text == winner:
        return None
    path = loop.places.path(MUTABLE)
    message = f"the winner without trial {trial.number}"
    commit = branch.commit_candidate(state.incumbent, path, text, message, state.at)
    branch.mark(f"{state.incumbent[:12]}-without-{trial.number}", commit)
    return commit
