"""Random search: any change of one dial that is still untried. The yardstick of the others.

Like the others it does not go back to what a keep has beaten.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lowbit.core.errors import UserError
from lowbit.research.campaign.edits import constants, constants_of_any, drawn
from lowbit.research.proposers.base import Kind, Proposal, Proposer, edited
from lowbit.research.proposers.view import View, beaten


@dataclass(frozen=True)
class Random:
    seed: int
    name: str = "random"

    def propose(self, view: View) -> Proposal | None:
        source = random.Random(f"{self.seed} {view.trial}")
        seen = [constants_of_any(one.text) for one in view.tried]
        found = drawn(view.text, source, seen, beaten(view))
        if found is None:
            return None
        name, value = found
        return edited(view.text, name, value, constants(view.text)[name])


def make(argument: str, seed: int) -> Proposer:
    if argument:
        raise UserError("the random proposer takes no argument")
    return Random(seed)


PROPOSER = Kind("random", "any one dial, any value that has not been tried", make)
