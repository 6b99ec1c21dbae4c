"""Any command line as a proposer: it edits train.py in a folder of its own.

    command:"agent --print {prompt}"

{prompt} becomes a short instruction, {folder} the folder and {trial} the number of the trial. The
folder holds program.md, prepare.py, train.py and results.tsv. Only train.py is read back, so other
edits have no effect. The last line of output becomes the description of the edit. The command is
the user's own agent and not a candidate, so it is not sandboxed: it has the user's files and
network. Only its time and the size of its output are limited.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lowbit.core.errors import RunError, UserError
from lowbit.research.candidate import sandbox
from lowbit.research.candidate.process_watch import Limits
from lowbit.research.proposers.base import Proposal, Proposer, ProposerKind
from lowbit.research.proposers.view import View

PROMPT = (
    "Read program.md, results.tsv and train.py in this folder. Make ONE focused change to train.py "
    "that may lower val_ppl, save it, and print one line that says what you changed. Run nothing."
)
SECONDS = 900.0


@dataclass(frozen=True)
class CommandProposer:
    """Runs a command line that edits train.py."""

    line: str
    seconds: float = SECONDS
    name: str = "command"

    def propose(self, view: View) -> Proposal | None:
        with tempfile.TemporaryDirectory(prefix="lowbit-proposer-") as where:
            folder = Path(where)
            _lay_out(folder, view)
            outcome = sandbox.run(
                self._words(folder, view),
                folder,
                Limits(self.seconds),
                environment=dict(os.environ),
                isolate=False,
            )
            if outcome.end != "done":
                tail = outcome.output.strip()[-500:]
                raise RunError(f"the proposer's command ended with {outcome.end}: {tail}")
            text = (folder / "train.py").read_text(encoding="utf-8")
        lines = [line.strip() for line in outcome.output.splitlines() if line.strip()]
        cost = {"seconds": round(outcome.seconds, 1)}
        return Proposal(text, lines[-1] if lines else "", None, cost)

    def _words(self, folder: Path, view: View) -> list[str]:
        values = {"prompt": PROMPT, "folder": str(folder), "trial": str(view.trial)}
        words = shlex.split(self.line)
        for name, value in values.items():
            words = [word.replace(f"{{{name}}}", value) for word in words]
        return ["/usr/bin/env", *words]


def _lay_out(folder: Path, view: View) -> None:
    for name, text in (
        ("program.md", view.program),
        ("prepare.py", view.fixed),
        ("train.py", view.text),
        ("results.tsv", view.results),
    ):
        (folder / name).write_text(text, encoding="utf-8")


def make(argument: str, seed: int) -> Proposer:
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UserError(f"command:{argument}: {error}") from None
    if not words:
        raise UserError(
            'command: needs a command line, for example command:"agent --print {prompt}"'
        )
    return CommandProposer(argument)


PROPOSER = ProposerKind("command", "any command line that edits train.py in a folder", make)
