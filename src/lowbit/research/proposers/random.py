"""Random search: any change of one dial that is still untried. The yardstick of the others.

Like the others it never proposes a value that a keep has replaced.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lowbit.core.errors import UserError
from lowbit.research.campaign.edits import constants, constants_of_any, random_edit
from lowbit.research.proposers.base import Kind, Proposal, Proposer, edited
from lowbit.research.proposers.view import View, replaced_values


@dataclass(frozen=True)
class Random:
    seed: int
    name: str = "random"

    def propose(self, view: View) -> Proposal | None:
        source = random.Random(f"{self.seed} {view.trial}")
        tried = [constants_of_any(trial.text) for trial in view.tried]
        edit = random_edit(view.text, source, tried, replaced_values(view))
        if edit is None:
            return None
        name, value = edit
        return edited(view.text, name, value, constants(view.text)[name])


def make(argument: str, seed: int) -> Proposer:
    if argument:
        raise UserError("the random proposer takes no argument")
    return Random(seed)


PROPOSER = Kind("random", "any one dial, any value that has not been tried", make)
