"""The state of a campaign: what replaying its ledger gives, and nothing else.

Events, in the order in which a campaign writes them:

    begun      settings, base commit, digests of what must not change, facts about the texts
    round      how many changes of one incumbent are about to be proposed
    stint      who proposes, how many trials are wanted, how many at a time
    proposed   a trial: its number, the blob and the commit it starts from, what it says of itself
    rebased    the same trial on a newer incumbent
    run        (commit, role, seed) is about to run                  ran   what came of it
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
from dataclasses import dataclass, field
from typing import Any, Literal

from lowbit.errors import RunError
from lowbit.research.campaign import Settings
from lowbit.research.judge import Noise, noise_of, spent
from lowbit.research.ledger import Event
from lowbit.research.outcomes import Ran
from lowbit.research.results import Row, Status

Role = Literal["screen", "confirm", "fresh"]
Key = tuple[str, Role, int]
BASELINE = "baseline: the program as it is"


@dataclass(frozen=True)
class Trial:
    """One change. `commit` follows from the ledger; `status` None: not judged yet."""

    number: int
    at: float
    blob: str
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
    runs: dict[Key, Ran] = field(default_factory=dict)
    running: list[tuple[Key, float]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
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
    def short(self) -> int:
        """Proposals that a round still lacks, because a kill came between two of them."""
        after, wanted = self.round
        mine = [trial for trial in self.trials.values() if trial.number > after]
        judged = any(trial.status is not None for trial in mine)
        return 0 if judged else max(0, wanted - len(mine))

    @property
    def next_number(self) -> int:
        return max(self.trials, default=0) + 1

    @property
    def spent(self) -> float:
        return spent(self.settings.alpha, self.confirmations, self.settings.horizon)

    @property
    def seconds(self) -> float:
        """Of machine time in runs, all of them."""
        return sum(ran.seconds + ran.evaluated for ran in self.runs.values())

    def baseline(self) -> list[Ran]:
        """The unmodified program's screening runs, a seed each, as far as they are there."""
        keys: list[Key] = [(self.base, "screen", seed) for seed in self.settings.seeds]
        return [self.runs[key] for key in keys if key in self.runs]

    def noise(self) -> Noise | None:
        found = [ran.scores["screening"].loss for ran in self.baseline() if not ran.reason]
        return noise_of(found) if len(found) == len(self.settings.seeds) else None

    def tokens(self) -> int:
        """What a confirmation trains on: the middle of what the clock let the first program see."""
        found = sorted(ran.tokens for ran in self.baseline())
        return found[len(found) // 2]

    def overhead(self) -> float:
        """The most that the first program took beside its training."""
        return max((ran.overhead for ran in self.baseline()), default=0.0)

    def screened(self, commit: str) -> Ran | None:
        return self.runs.get((commit, "screen", self.settings.seeds[0]))

    def commit_of(self, trial: int) -> str:
        return self.base if trial == 0 else self.trials[trial].commit


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
    known = {key: body[key] for key in ("number", "blob", "base", "description", "by", "cost")}
    state.trials[body["number"]] = Trial(at=at, edit=edit, commit=body["commit"], **known)  # type: ignore[arg-type]


def _changed(state: State, number: int, **more: Any) -> None:
    state.trials[number] = Trial(**{**vars(state.trials[number]), **more})


def _rebased(state: State, body: dict[str, Any], at: float) -> None:
    more = {key: body[key] for key in ("blob", "base", "commit")}
    _changed(state, body["number"], at=at, **more)


def _run(state: State, body: dict[str, Any], at: float) -> None:
    state.running = [*_others(state, _key(body)), (_key(body), at)]


def _ran(state: State, body: dict[str, Any], at: float) -> None:
    state.running = _others(state, _key(body))
    state.runs[_key(body)] = Ran.from_json(body["ran"])


def _key(body: dict[str, Any]) -> Key:
    return (body["commit"], body["role"], body["seed"])


def _others(state: State, key: Key) -> list[tuple[Key, float]]:
    return [one for one in state.running if one[0] != key]


def _confirming(state: State, body: dict[str, Any], at: float) -> None:
    state.confirmations += 1
    _changed(state, body["number"], confirmation=state.confirmations)


def _judged(state: State, body: dict[str, Any], at: float) -> None:
    known = {k: v for k, v in body.items() if k not in ("number", "stop")}
    _changed(state, body["number"], **known)
    state.stopped = body.get("stop", state.stopped)
    trial = state.trials[body["number"]]
    if trial.status == "keep":
        state.kept.append(trial.number)
        state.incumbent = trial.commit
        state.without.clear()


def _undone(state: State, body: dict[str, Any], at: float) -> None:
    state.kept = [number for number in state.kept if number != body["number"]]
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
    if ran is None or ran.reason:
        return Row(
            commit, None, (ran.peak if ran else 0) / 2**30, status, description, None, reason
        )
    perplexity = math.exp(min(ran.scores["screening"].loss, 700.0))
    return Row(commit, perplexity, ran.peak / 2**30, status, description, ran.bits, reason)
