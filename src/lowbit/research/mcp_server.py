"""The loop's verbs as MCP tools, over standard input and output, for one campaign folder.

The folder is given when the server starts, so a client reaches no other; a tool answers in text,
and a mistake of the client's comes back as a tool's error, with the sentence that the command line
would have said. Whatever a tool does, the ledger and the lock are those of the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from lowbit.core.errors import LowbitError, UserError
from lowbit.research import actions
from lowbit.research.report.console import facts, why
from lowbit.research.session import Campaign, MakeRunner, is_running

INSTRUCTIONS = (
    "A campaign that trains a language model towards three values a weight. Read program.md in the "
    "folder. Edit train.py where `status` says, then call `trial`; it is kept only where the gain "
    "is real. `status` says what is best so far."
)


def server(folder: str, tag: str | None = None, runner: MakeRunner | None = None) -> Any:
    """The server, not yet running. `runner` stands in for what runs candidates."""
    mcp = _library()("lowbit research", instructions=INSTRUCTIONS)

    def campaign(sure: bool = False) -> Campaign:
        return Campaign.at(folder, tag, sure, runner=runner)

    for tool in (*_acting(campaign, folder), *_showing(campaign)):
        mcp.tool()(_with_tool_errors(tool))
    return mcp


def _acting(campaign: Callable[[], Campaign], folder: str) -> list[Callable[..., str]]:
    def init(
        tag: str,
        model: str,
        task: str = "wikitext2",
        budget: float = 300.0,
        seeds: int = 5,
        device: str = "cpu",
    ) -> str:
        """Begin a campaign on the branch autoresearch/TAG, from the committed files."""
        import os

        from lowbit.research.campaign.settings import CampaignSettings

        settings = CampaignSettings(
            tag,
            model,
            task,
            budget,
            seeds=tuple(range(seeds + 1)),
            fresh=tuple(range(100, 100 + seeds)),
            threads=os.cpu_count() or 1,
            device=device,
        )
        return f"begun: branch {actions.init(folder, settings)['branch']}"

    def run(proposer: str = "builtin", trials: int = 1, jobs: int = 1) -> str:
        """Let a proposer drive until so many trials in all are judged."""
        return actions.run(campaign(), proposer, trials, jobs)

    def trial(message: str) -> str:
        """Try the edit in the worktree's train.py: commit, run, judge, keep or roll back."""
        judged, _ = actions.trial(campaign(), message)
        return f"trial {judged.number}: {judged.status}: {why(judged)}"

    def rollback(last: bool = False) -> str:
        """Drop the edit in the worktree; with last, take back the newest keep too."""
        return actions.rollback(campaign(), last)

    def resume(looked: bool = False) -> str:
        """Go on where the campaign was interrupted. looked: somebody saw what stopped it."""
        return actions.resume(campaign(), looked)

    return [init, run, trial, rollback, resume]


def _showing(campaign: Callable[..., Campaign]) -> list[Callable[..., str]]:
    def status() -> str:
        """The running trial, the best so far, noise, alpha spent, cost, and where to edit."""
        import time

        running = campaign()
        places, state = running.places, running.state()
        lines = facts(places, state, time.time(), is_running(places))
        return "\n".join(f"{name}: {value}" for name, value in lines)

    def report(ending: bool = False) -> str:
        """Write chart, ledger and priorities as a page. ending: close the campaign, for good."""
        return "\n".join(map(str, actions.report(campaign(sure=ending), ending)))

    return [status, report]


def _with_tool_errors(tool: Callable[..., str]) -> Callable[..., str]:
    """A person's mistake as the tool's answer, in the words of the command line."""
    from mcp.server.mcpserver.exceptions import ToolError

    @wraps(tool)
    def wrapped(*args: Any, **more: Any) -> str:
        try:
            return tool(*args, **more)
        except LowbitError as error:
            raise ToolError(str(error)) from None

    return wrapped


def _library() -> Any:
    try:
        from mcp.server import MCPServer
    except ImportError:
        raise UserError("the MCP server needs the SDK: pip install 'lowbit[research]'") from None
    return MCPServer
