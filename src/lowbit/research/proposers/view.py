"""What a proposer sees of a campaign: the program, what has been tried, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lowbit.research.campaign.edits import constants
from lowbit.research.campaign.git_branch import git
from lowbit.research.campaign.results_tsv import Status, to_tsv
from lowbit.research.campaign.settings import FIXED, MUTABLE, Places
from lowbit.research.campaign.state import State, rows


@dataclass(frozen=True)
class Tried:
    """A change that was judged, or is being.

    `text` changes `base`, the incumbent of its time. `loss`: of `text` on the screening seed, in
    nats; `gain`: of it over `base` there. None without a score.
    """

    base: str
    text: str
    edit: tuple[str, Any] | None
    description: str
    status: Status | None
    reason: str
    gain: float | None
    loss: float | None = None


@dataclass(frozen=True)
class View:
    """`text` is the incumbent's; `trial` the number that the next proposal will have; `first` the
    loss of the first program on the screening seed, in nats.
    """

    text: str
    fixed: str
    program: str
    results: str
    tried: tuple[Tried, ...]
    trial: int
    first: float | None = None


def beaten(view: View) -> set[tuple[str, Any]]:
    """(dial, value) that a keep replaced: going back there would undo what was shown to be real."""
    return {
        (one.edit[0], constants(one.base).get(one.edit[0]))
        for one in view.tried
        if one.status == "keep" and one.edit is not None
    }


def view(places: Places, state: State) -> View:
    root = places.branch.repository

    def text(commit: str, name: str = MUTABLE) -> str:
        return _shown(root, commit, places.path(name))

    tried = tuple(
        Tried(
            text(one.base),
            text(one.commit),
            one.edit,
            one.description,
            one.status,
            one.reason,
            state.fall(one),
            None if one.status == "crash" else state.loss(one.commit),
        )
        for one in state.trials.values()
    )
    return View(
        text(state.incumbent),
        text(state.base, FIXED),
        text(state.base, "program.md"),
        to_tsv(rows(state)),
        tried,
        state.next_number,
        state.loss(state.base),
    )


@lru_cache(maxsize=1_000)
def _shown(root: Path, commit: str, path: str) -> str:
    """A commit never changes, so neither does what is in it."""
    return git(root, "show", f"{commit}:{path}", strip=False)
