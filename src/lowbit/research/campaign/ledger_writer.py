"""Appends events to the ledger, updates the state and notifies a watcher.

The loop writes through this class alone, so ledger and state cannot differ. The state is replayed
once and then advanced event by event: replaying a long ledger for every event would be slow.
"""

from __future__ import annotations

from typing import Any, Protocol

from lowbit.core.errors import RunError
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.replay import advance, replay
from lowbit.research.campaign.results_tsv import Status
from lowbit.research.campaign.state import CampaignState, Trial


class LedgerWatcher(Protocol):
    """Called after each event is written."""

    def __call__(self, state: CampaignState, kind: str, body: dict[str, Any]) -> None: ...


def ignore_event(state: CampaignState, kind: str, body: dict[str, Any]) -> None:
    """A watcher that does nothing."""


class LedgerWriter:
    """A campaign's ledger together with the state computed from it."""

    def __init__(self, ledger: Ledger, watch: LedgerWatcher = ignore_event) -> None:
        self.ledger, self.watch = ledger, watch
        self._state: CampaignState | None = None
        self._replayed = 0

    @property
    def state(self) -> CampaignState:
        """The state after the last event of the ledger."""
        events = self.ledger.events
        if self._state is None:
            self._state = replay(events)
        elif self._replayed < len(events):
            advance(self._state, events[self._replayed :])
        self._replayed = len(events)
        if self._state is None:
            raise RunError("the ledger is empty: start the campaign with lowbit research init")
        return self._state

    def append(self, kind: str, **body: Any) -> CampaignState:
        """Write an event, then return the new state."""
        self.ledger.append(kind, **body)
        state = self.state
        self.watch(state, kind, body)
        return state

    def judge(self, trial: Trial, status: Status, reason: str, **more: Any) -> None:
        """Write the event that ends a trial."""
        self.append("judged", number=trial.number, status=status, reason=reason, **more)
