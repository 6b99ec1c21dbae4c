"""Random search: a random edit of one dial that leads to a new program.

It is the baseline for the other proposers. Like `builtin`, it never proposes a value that a keep
has replaced.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lowbit.core.errors import UserError
from lowbit.research.campaign.edits import constants, constants_if_valid, random_edit
from lowbit.research.proposers.base import Proposal, Proposer, ProposerKind, edit_proposal
from lowbit.research.proposers.view import View, replaced_values


@dataclass(frozen=True)
class RandomProposer:
    """Proposes random edits of one dial."""

    seed: int
    name: str = "random"

    def propose(self, view: View) -> Proposal | None:
        source = random.Random(f"{self.seed} {view.trial}")
        history = [constants_if_valid(trial.text) for trial in view.history]
        edit = random_edit(view.text, source, history, replaced_values(view))
        if edit is None:
            return None
        name, value = edit
        return edit_proposal(view.text, name, value, constants(view.text)[name])


def make(argument: str, seed: int) -> Proposer:
    if argument:
        raise UserError("the random proposer takes no argument")
    return RandomProposer(seed)


PROPOSER = ProposerKind("random", "a random edit of one dial", make)
