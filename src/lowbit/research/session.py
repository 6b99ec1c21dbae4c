"""A campaign that has begun, as a verb finds it; whoever changes anything holds its lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from lowbit.core.errors import RunError
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.ledger_writer import LedgerWatcher, ignore_event
from lowbit.research.campaign.replay import replay
from lowbit.research.campaign.settings import (
    BUNDLE,
    CHECK,
    DATA,
    CampaignSettings,
    Places,
    campaign_folder,
    resolve_tag,
)
from lowbit.research.campaign.state import CampaignState
from lowbit.research.candidate.sealed_run import Runner
from lowbit.research.loop import Loop

MakeRunner = Callable[[CampaignSettings, Places], Runner]


@dataclass(frozen=True)
class Campaign:
    """A campaign that has begun, as a verb finds it. `runner` makes what runs candidates."""

    places: Places
    watch: LedgerWatcher = ignore_event
    runner: MakeRunner | None = None

    @classmethod
    def at(cls, folder: str, tag: str | None = None, sure: bool = False, **more: Any) -> Campaign:
        path = campaign_folder(folder)
        return cls(Places(path, resolve_tag(path, tag, sure)), **more)

    def state(self) -> CampaignState:
        state = replay(Ledger(self.places.ledger).events)
        if state is None:
            raise RunError(f"{self.places.ledger} is empty: lowbit research init")
        return state

    @contextmanager
    def loop(self) -> Iterator[Loop]:
        """The machine, while nobody else has it."""
        self.places.work.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.places.lock, timeout=0):
                ledger = Ledger(self.places.ledger)
                state = self.state()
                # Of a ledger that came with a clone, what was tried lies beside it.
                self.places.branch.unbundle(self.places.results / BUNDLE)
                check_texts(state, self.places)
                make = self.runner or sealed
                yield Loop(self.places, ledger, make(state.settings, self.places), self.watch)
        except Timeout:
            raise RunError(
                f"campaign {self.places.tag} is being run by another process: wait, or stop it"
            ) from None


def sealed(settings: CampaignSettings, places: Places) -> Runner:
    from lowbit.models.loading import resolve
    from lowbit.research.candidate.sealed_run import SealedRunner

    return SealedRunner(settings, places, resolve(settings.model).resolve())


def check_texts(state: CampaignState, places: Places) -> None:
    """What candidates read and what scores them is what it was at the beginning."""
    from lowbit.core.files import file_digest
    from lowbit.research.candidate.text_split import prepare

    facts = state.start["texts"]
    paths = {
        name: (places.inputs if name in (DATA, CHECK) else places.hidden) / name for name in facts
    }
    if not all(path.is_file() for path in paths.values()):
        prepare(state.settings, places)
    for name, path in paths.items():
        if file_digest(path) != facts[name]["sha256"]:
            raise RunError(
                f"{path} is not what the campaign began with; remove {places.work} to have it "
                "made again from the data"
            )


def is_running(places: Places) -> bool:
    """Whether somebody holds the lock."""
    if not places.lock.is_file():
        return False
    try:
        with FileLock(places.lock, timeout=0):
            return False
    except Timeout:
        return True
