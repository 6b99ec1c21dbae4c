"""Opens an existing campaign. Every process that changes a campaign holds its lock."""

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
    """An existing campaign.

    Attributes:
        places: Paths of the campaign.
        watch: Called with every event that is written to the ledger.
        runner: Makes the runner of candidates; None for the sealed runner.
    """

    places: Places
    watch: LedgerWatcher = ignore_event
    runner: MakeRunner | None = None

    @classmethod
    def at(cls, folder: str, tag: str | None = None, sure: bool = False, **more: Any) -> Campaign:
        """The campaign with this tag, or the newest one of the folder.

        `sure`: for actions that cannot be undone; the tag is then required if there are several.
        """
        path = campaign_folder(folder)
        return cls(Places(path, resolve_tag(path, tag, sure)), **more)

    def state(self) -> CampaignState:
        """The state, read from the ledger."""
        state = replay(Ledger(self.places.ledger).events)
        if state is None:
            raise RunError(f"{self.places.ledger} is empty: start with lowbit research init")
        return state

    @contextmanager
    def loop(self) -> Iterator[Loop]:
        """The loop over this campaign, under its lock."""
        self.places.work.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.places.lock, timeout=0):
                ledger = Ledger(self.places.ledger)
                state = self.state()
                # After a clone the commits of the trials are only in the bundle.
                self.places.branch.unbundle(self.places.results / BUNDLE)
                check_texts(state, self.places)
                make = self.runner or sealed_runner
                yield Loop(self.places, ledger, make(state.settings, self.places), self.watch)
        except Timeout:
            raise RunError(
                f"another process is running campaign {self.places.tag}: wait for it, or stop it"
            ) from None


def sealed_runner(settings: CampaignSettings, places: Places) -> Runner:
    """The runner that confines candidates."""
    from lowbit.models.find_model import resolve
    from lowbit.research.candidate.sealed_run import SealedRunner

    return SealedRunner(settings, places, resolve(settings.model).resolve())


def check_texts(state: CampaignState, places: Places) -> None:
    """Refuse if training or evaluation text differs from the text that the campaign began with."""
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
                f"{path} differs from the file that the campaign began with; remove {places.work} "
                "to make it again from the data"
            )


def is_running(places: Places) -> bool:
    """Whether a process holds the lock."""
    if not places.lock.is_file():
        return False
    try:
        with FileLock(places.lock, timeout=0):
            return False
    except Timeout:
        return True
