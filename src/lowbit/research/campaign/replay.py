"""From a ledger to a state: what every event makes of it.

Events, in the order in which a campaign writes them:

    begun      settings, base commit, digests of what must not change, facts about the texts
    round      how many changes of one incumbent are about to be proposed
    stint      who proposes, how many trials are wanted, how many at a time
    proposed   a trial: its number, its commit and the one it starts from, what it says of itself
    rebased    the same trial on a newer incumbent
    run        (commit, role, seed) is about to run                  ran   what came of it
    against    the incumbent was screened again beside a trial, which is held against that
    confirming a trial begins to spend its share of alpha
    judged     a trial's end: keep, discard or crash, why, what deciding cost, and whether the loop
               stops until a person has                              looked
    unproposed a proposer failed, and is asked again
    undone     a person put the incumbent back
    without    the winner with one keep taken out, for the ending
    sealed     the sealed text is opened                             ended    nothing may follow
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowbit.core.errors import RunError
from lowbit.research.campaign.ledger import Event
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import Settings
from lowbit.research.campaign.state import Key, State, Trial


def replay(events: Sequence[Event]) -> State | None:
    """None where nothing has begun."""
    if not events:
        return None
    first = events[0]
    if first.kind != "begun":
        raise RunError("the ledger does not begin with a campaign's beginning")
    settings, base = Settings.from_json(first.body["settings"]), first.body["base"]
    state = State(settings, base, first.body, first.at, base)
    advance(state, events[1:])
    return state


def advance(state: State, events: Sequence[Event]) -> None:
    """What more events make of a state, in place."""
    for event in events:
        _STEPS[event.kind](state, event.body, event.at)
        state.last = event.at


def _proposed(state: State, body: dict[str, Any], at: float) -> None:
    edit = tuple(body["edit"]) if body["edit"] else None
    same = {key: body[key] for key in ("number", "base", "description", "by", "cost")}
    state.trials[body["number"]] = Trial(at=at, edit=edit, commit=body["commit"], **same)  # type: ignore[arg-type]


def _changed(state: State, number: int, **more: Any) -> None:
    state.trials[number] = Trial(**{**vars(state.trials[number]), **more})


def _rebased(state: State, body: dict[str, Any], at: float) -> None:
    more = {key: body[key] for key in ("base", "commit")}
    _changed(state, body["number"], at=at, against=None, **more)


def _run(state: State, body: dict[str, Any], at: float) -> None:
    state.running = [*_others(state, _key(body)), (_key(body), at)]


def _ran(state: State, body: dict[str, Any], at: float) -> None:
    state.running = _others(state, _key(body))
    key = _key(body)
    if key in state.runs:
        state.replaced_runs.append((key, state.runs[key]))
    state.runs[key] = RunResult.from_json(body["ran"])


def _key(body: dict[str, Any]) -> Key:
    return (body["commit"], body["role"], body["seed"])


def _others(state: State, key: Key) -> list[tuple[Key, float]]:
    return [entry for entry in state.running if entry[0] != key]


def _against(state: State, body: dict[str, Any], at: float) -> None:
    _changed(state, body["number"], against=body["against"])


def _confirming(state: State, body: dict[str, Any], at: float) -> None:
    state.confirmations += 1
    _changed(state, body["number"], confirmation=state.confirmations)


def _judged(state: State, body: dict[str, Any], at: float) -> None:
    verdict = {k: v for k, v in body.items() if k not in ("number", "stop")}
    _changed(state, body["number"], **verdict)
    state.stopped = body.get("stop", state.stopped)
    trial = state.trials[body["number"]]
    if trial.status == "keep":
        state.keeps.append(trial.number)
        state.incumbent = trial.commit
        state.without.clear()


def _undone(state: State, body: dict[str, Any], at: float) -> None:
    state.keeps = [number for number in state.keeps if number != body["number"]]
    state.incumbent = body["incumbent"]
    state.without.clear()
    _changed(state, body["number"], status="discard", reason="undone by a person")


def _round(state: State, body: dict[str, Any], at: float) -> None:
    state.round = (body["after"], body["wanted"])


def _unproposed(state: State, body: dict[str, Any], at: float) -> None:
    state.failures += 1


def _stint(state: State, body: dict[str, Any], at: float) -> None:
    state.stint = body


def _looked(state: State, body: dict[str, Any], at: float) -> None:
    state.stopped = ""


def _without(state: State, body: dict[str, Any], at: float) -> None:
    state.without[body["number"]] = body["commit"]


def _opened(state: State, body: dict[str, Any], at: float) -> None:
    state.opened = body["commits"]


def _ended(state: State, body: dict[str, Any], at: float) -> None:
    state.ended = body


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
