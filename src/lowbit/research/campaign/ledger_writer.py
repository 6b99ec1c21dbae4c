"""The ledger as the loop writes it: one line, the new state, and whoever watches is told."""

from __future__ import annotations

from typing import Any, Protocol

from lowbit.core.errors import RunError
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.replay import advance, replay
from lowbit.research.campaign.results_tsv import Status
from lowbit.research.campaign.state import State, Trial


class Watcher(Protocol):
    """Told of every event, as it is written."""

    def __call__(self, state: State, kind: str, body: dict[str, Any]) -> None: ...


def nobody(state: State, kind: str, body: dict[str, Any]) -> None:
    pass


class LedgerWriter:
    """A campaign's ledger, and the state that follows from it."""

    def __init__(self, ledger: Ledger, watch: Watcher = nobody) -> None:
        self.ledger, self.watch = ledger, watch
        self._state: State | None = None
        self._replayed = 0

    @property
    def state(self) -> State:
        """Replayed once, and then led on: a long campaign's ledger is long."""
        events = self.ledger.events
        if self._state is None:
            self._state = replay(events)
        elif self._replayed < len(events):
            advance(self._state, events[self._replayed :])
        self._replayed = len(events)
        if self._state is None:
            raise RunError("the campaign has not begun")
        return self._state

    def append(self, kind: str, **body: Any) -> State:
        """One line in the ledger; whatever follows from it comes after."""
        self.ledger.append(kind, **body)
        state = self.state
        self.watch(state, kind, body)
        return state

    def judge(self, trial: Trial, status: Status, reason: str, **more: Any) -> None:
        """A trial's last line."""
        self.append("judged", number=trial.number, status=status, reason=reason, **more)
