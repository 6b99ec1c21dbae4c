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


def replaced_values(view: View) -> set[tuple[str, Any]]:
    """(dial, value) that a keep replaced: going back there would undo what was shown to be real."""
    return {
        (trial.edit[0], constants(trial.base).get(trial.edit[0]))
        for trial in view.tried
        if trial.status == "keep" and trial.edit is not None
    }


def view(places: Places, state: State) -> View:
    root = places.branch.repository

    def text(commit: str, name: str = MUTABLE) -> str:
        return _file_at(root, commit, places.path(name))

    tried = tuple(
        Tried(
            text(trial.base),
            text(trial.commit),
            trial.edit,
            trial.description,
            trial.status,
            trial.reason,
            state.screening_gain(trial),
            None if trial.status == "crash" else state.loss(trial.commit),
        )
        for trial in state.trials.values()
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
def _file_at(root: Path, commit: str, path: str) -> str:
    """A commit never changes, so neither does what is in it."""
    return git(root, "show", f"{commit}:{path}", strip=False)
