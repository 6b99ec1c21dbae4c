"""Final evaluation of a campaign: kept changes removed one at a time, fresh seeds, sealed text.

The gains of kept changes are selected, so they can be too high. The final evaluation measures them
again on seeds and text that no decision used. The sealed text is opened last and only once; after
that no trial is accepted. All steps go through the ledger, so a killed evaluation continues.
"""

from __future__ import annotations

from lowbit.core.errors import RunError, UserError
from lowbit.research.campaign import edits
from lowbit.research.campaign.settings import MUTABLE, facts
from lowbit.research.campaign.state import CampaignState, Key, Trial
from lowbit.research.judging.run_cache import PASSING
from lowbit.research.loop import Loop

MOST_REPLAYS = 5
"""How many of the newest keeps are removed."""


def end(loop: Loop, jobs: int = 1, early: bool = False) -> None:
    """Evaluate and close a campaign; does nothing if it is closed already."""
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
    for (commit, _, seed), run in zip(fresh, results, strict=True):
        if run.reason in PASSING:
            program = "the best program" if commit == state.incumbent else "the first program"
            raise RunError(
                f"{program} failed on fresh seed {seed} ({run.reason}), which may be the machine's "
                f"fault; run the same command to try again. {run.detail}"
            )
    loop.writer.append("ended", winner=state.incumbent, base=state.base, facts=facts())
    loop.settle()


def _check(state: CampaignState, early: bool) -> None:
    """Refuse an evaluation that comes too early, because it cannot be undone."""
    if state.stop_reason or state.open_trials:
        raise UserError(
            "a trial is not finished or the loop has stopped: run lowbit research resume first"
        )
    if len(state.baseline()) < len(state.settings.seeds):
        raise UserError(
            "the first program has not run on all seeds, so there is nothing to evaluate"
        )
    requested = (state.stint or {}).get("trials") or 0
    if len(state.judged_trials) < requested and not early:
        raise UserError(
            f"{len(state.judged_trials)} of {requested} trials are judged, and none is accepted "
            "after --ending: continue with lowbit research resume, or add --early to end now"
        )


def _replays(loop: Loop, jobs: int) -> None:
    """Run the best program without each of its newest keeps, on the same fresh seeds."""
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
    """The best program's commit without one keep; None if a later keep edits the same place."""
    state, branch = loop.state, loop.branch
    best, before = loop.runs.text(state.incumbent), loop.runs.text(trial.base)
    if trial.edit is not None:
        name, value = trial.edit
        if edits.constants(best).get(name) != value:
            return None
        text: str | None = edits.change(best, name, edits.constants(before)[name])
    else:
        text = branch.merge(loop.runs.text(trial.commit), best, before)
    if text is None or text == best:
        return None
    path = loop.places.path(MUTABLE)
    message = f"the winner without trial {trial.number}"
    commit = branch.commit_candidate(state.incumbent, path, text, message, state.at)
    branch.mark(f"{state.incumbent[:12]}-without-{trial.number}", commit)
    return commit
