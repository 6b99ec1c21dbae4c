"""Who proposes the next change: one file here each, with a PROPOSER."""

from __future__ import annotations

from lowbit.core.plugins import lookup, plugins
from lowbit.research.proposers.base import Proposer

OURS = ("builtin", "random")
"""Those that cost nothing to ask, and never fail but by a fault of ours."""


def proposer(text: str, seed: int = 0) -> Proposer:
    """`builtin`, `random`, `command:LINE`, `openai:URL`."""
    name, _, argument = text.partition(":")
    made: Proposer = lookup("proposer", name, plugins(__name__, "PROPOSER")).make(argument, seed)
    return made
