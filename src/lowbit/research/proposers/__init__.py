"""Who proposes the next edit: one file a proposer, with a PROPOSER.

base     what a proposer is
builtin  typed edits of the program's dials, chosen by optuna's TPE
command  any command line
openai   an OpenAI-compatible endpoint
random   random search, the baseline
view     what a proposer sees of a campaign
"""

from __future__ import annotations

from lowbit.core.plugins import lookup, plugins
from lowbit.research.proposers.base import Proposer

OURS = ("builtin", "random")
"""Those that cost nothing to ask, and never fail but by a fault of ours."""


def proposer(text: str, seed: int = 0) -> Proposer:
    """`builtin`, `random`, `command:LINE`, `openai:URL`."""
    name, _, argument = text.partition(":")
    plugin: Proposer = lookup("proposer", name, plugins(__name__, "PROPOSER")).make(argument, seed)
    return plugin
