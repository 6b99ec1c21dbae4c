"""Computes a campaign's state from the events of its ledger.

Each kind of event has one function that updates the state. Events, in the order in which a
campaign writes them:

    begun      the campaign starts: settings, base commit, text sizes and digests, machine facts
    stint      `run` starts: proposer, number of trials, trials at a time, seed
    round      the loop is about to ask for this many proposals for one incumbent
    proposed   a trial: its number, commit, base commit, description, edit, proposer and cost
    unproposed the proposer failed; the loop waits and asks again
    rebased    the trial's edit was applied to a newer incumbent
    run        the run (commit, role, seed) starts
    ran        that run ended, with its result
    against    the incumbent was screened again; this loss is the trial's reference
    confirming the trial's confirmation starts and uses its share of alpha
    judged     the trial ended: keep, discard or crash, the reason, gain, p-value and alpha;
               with `stop` the loop stops until a user has checked the trial
    looked     a user has checked it, and the loop may continue
    undone     a user took back the newest keep
    without    final evaluation: the winner's commit without one of its keeps
    sealed     final evaluation: the sealed text is opened
    ended      the campaign is closed; no event may follow
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowbit.core.errors import RunError
from lowbit.research.campaign.ledger import Event
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import CampaignSettings
from lowbit.research.campaign.state import CampaignState, Key, Trial


def replay(events: Sequence[Event]) -> CampaignState | None:
    """The state after all events; None if there are no events."""
    if not events:
        return None
    first = events[0]
    if first.kind != "begun":
        raise RunError(
            f"the first event of the ledger is '{first.kind}', not 'begun': this is not the ledger "
            "of a campaign"
        )
    settings, base = CampaignSettings.from_json(first.body["settings"]), first.body["base"]
    state = CampaignState(settings, base, first.body, first.at, base)
    advance(state, events[1:])
    return state


def advance(state: CampaignState, events: Sequence[Event]) -> None:
    """Update a state with further events, in place."""
    for event in events:
        _STEPS[event.kind](state, event.body, event.at)
        state.last_at = event.at


def _proposed(state: CampaignState, body: dict[str, Any], at: float) -> None:
    edit = tuple(body["edit"]) if body["edit"] else None
    more = {key: body[key] for key in ("number", "base", "description", "by", "cost")}
    state.trials[body["number"]] = Trial(at=at, edit=edit, commit=body["commit"], **more)  # type: ignore[arg-type]


def _update_trial(state: CampaignState, number: int, **more: Any) -> None:
    state.trials[number] = Trial(**{**vars(state.trials[number]), **more})


def _rebased(state: CampaignState, body: dict[str, Any], at: float) -> None:
    more = {key: body[key] for key in ("base", "commit")}
    _update_trial(state, body["number"], at=at, against=None, **more)


def _run(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.running = [*_others(state, _key(body)), (_key(body), at)]


def _ran(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.running = _others(state, _key(body))
    key = _key(body)
    if key in state.runs:
        state.replaced_runs.append((key, state.runs[key]))
    state.runs[key] = RunResult.from_json(body["ran"])


def _key(body: dict[str, Any]) -> Key:
    return (body["commit"], body["role"], body["seed"])


def _others(state: CampaignState, key: Key) -> list[tuple[Key, float]]:
    return [entry for entry in state.running if entry[0] != key]


def _against(state: CampaignState, body: dict[str, Any], at: float) -> None:
    _update_trial(state, body["number"], against=body["against"])


def _confirming(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.confirmations += 1
    _update_trial(state, body["number"], confirmation=state.confirmations)


def _judged(state: CampaignState, body: dict[str, Any], at: float) -> None:
    verdict = {k: v for k, v in body.items() if k not in ("number", "stop")}
    _update_trial(state, body["number"], **verdict)
    state.stop_reason = body.get("stop", state.stop_reason)
    trial = state.trials[body["number"]]
    if trial.status == "keep":
        state.keeps.append(trial.number)
        state.incumbent = trial.commit
        state.ablations.clear()


def _undone(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.keeps = [number for number in state.keeps if number != body["number"]]
    state.incumbent = body["incumbent"]
    state.ablations.clear()
    _update_trial(state, body["number"], status="discard", reason="taken back by the user")


def _round(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.round = (body["after"], body["wanted"])


def _unproposed(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.failures += 1


def _stint(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.stint = body


def _looked(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.stop_reason = ""


def _without(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.ablations[body["number"]] = body["commit"]


def _opened(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.sealed_commits = body["commits"]


def _ended(state: CampaignState, body: dict[str, Any], at: float) -> None:
    state.ending = body


_STEPS = {
    "proposed": _proposed,
    "rebased": _rebased,
    "run": _run,
    "ran": _ran,
    "against": _against,
    "confirming": _confirming,
    "judged": _judged,
    "undone": _undone,
    "unproposed": _unproposed,
    "round": _round,
    "stint": _stint,
    "looked": _looked,
    "without": _without,
    "sealed": _opened,
    "ended": _ended,
}
