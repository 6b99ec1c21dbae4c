"""Proposers suggest the next edit. Each one is a file with a PROPOSER; a new file is a plug-in.

base     interface of a proposer
builtin  edits of one dial, chosen by optuna's TPE
command  any command line
openai   an OpenAI-compatible endpoint
random   random search, the baseline
view     input of a proposer
"""

from __future__ import annotations

from lowbit.core.plugins import lookup, plugins
from lowbit.research.proposers.base import Proposer

OURS = ("builtin", "random")
"""Proposers that run in this process, without cost; if one fails, that is a bug in lowbit."""


def proposer(text: str, seed: int = 0) -> Proposer:
    """The proposer for `builtin`, `random`, `command:LINE` or `openai:URL`."""
    name, _, argument = text.partition(":")
    plugin: Proposer = lookup("proposer", name, plugins(__name__, "PROPOSER")).make(argument, seed)
    return plugin
