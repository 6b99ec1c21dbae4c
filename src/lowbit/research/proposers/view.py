"""The input of a proposer: the incumbent program, the fixed files, and every trial so far.

A proposer gets these texts and numbers instead of the campaign itself, so it cannot change the
ledger or read evaluation text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lowbit.research.campaign.edits import constants
from lowbit.research.campaign.git_branch import git
from lowbit.research.campaign.results_tsv import Status, to_tsv
from lowbit.research.campaign.settings import FIXED, MUTABLE, Places
from lowbit.research.campaign.state import CampaignState, rows


@dataclass(frozen=True)
class PastTrial:
    """One trial of the campaign, judged or not."""

    base: str
    """Text of the incumbent that the trial changes."""
    text: str
    edit: tuple[str, Any] | None
    description: str
    status: Status | None
    reason: str
    gain: float | None
    """How far `text` lowers the loss of `base` on the screening seed, in nats; None: no score."""
    loss: float | None = None
    """Loss of `text` on the screening seed, in nats; None: no score."""


@dataclass(frozen=True)
class View:
    """What a proposer gets to see of a campaign."""

    text: str
    """train.py of the incumbent."""
    fixed: str
    """prepare.py."""
    program: str
    """program.md."""
    results: str
    """results.tsv."""
    history: tuple[PastTrial, ...]
    trial: int
    """Number of the next trial."""
    first_loss: float | None = None
    """Loss of the unmodified program on the screening seed, in nats."""


def replaced_values(view: View) -> set[tuple[str, Any]]:
    """(dial, value) pairs that a keep replaced; proposing one would undo a significant gain."""
    return {
        (trial.edit[0], constants(trial.base).get(trial.edit[0]))
        for trial in view.history
        if trial.status == "keep" and trial.edit is not None
    }


def view(places: Places, state: CampaignState) -> View:
    """The proposer's view of a campaign."""
    root = places.branch.repository

    def text(commit: str, name: str = MUTABLE) -> str:
        return _file_at(root, commit, places.path(name))

    history = tuple(
        PastTrial(
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
        history,
        state.next_number,
        state.loss(state.base),
    )


@lru_cache(maxsize=1_000)
def _file_at(root: Path, commit: str, path: str) -> str:
    """A file at a commit; cached because a commit never changes."""
    return git(root, "show", f"{commit}:{path}", strip=False)
