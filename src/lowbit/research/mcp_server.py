"""The research commands as MCP tools, over standard input and output, for one campaign folder.

The folder is set when the server starts, so a client cannot reach another one. A tool answers in
text. A mistake of the client returns a tool error with the message of the command line. The tools
use the same ledger and lock as the command line.
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
    "A campaign that improves ternary training (three values per weight) of a language model. Read "
    "program.md in the folder. Edit the train.py whose path `status` shows, then call `trial`. An "
    "edit is kept only if a paired test finds it better. `status` also shows the best program."
)


def server(folder: str, tag: str | None = None, runner: MakeRunner | None = None) -> Any:
    """The server, not yet running. `runner` replaces the sealed runner in tests."""
    mcp = _library()("lowbit research", instructions=INSTRUCTIONS)

    def campaign(sure: bool = False) -> Campaign:
        return Campaign.at(folder, tag, sure, runner=runner)

    for tool in (*_acting_tools(campaign, folder), *_reading_tools(campaign)):
        mcp.tool()(_with_tool_errors(tool))
    return mcp


def _acting_tools(campaign: Callable[[], Campaign], folder: str) -> list[Callable[..., str]]:
    def init(
        tag: str,
        model: str,
        task: str = "wikitext2",
        budget: float = 300.0,
        seeds: int = 5,
        device: str = "cpu",
    ) -> str:
        """Start a campaign on branch autoresearch/TAG. budget: seconds of training per trial."""
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
        return f"started: branch {actions.init(folder, settings)['branch']}"

    def run(proposer: str = "builtin", trials: int = 1, jobs: int = 1) -> str:
        """Let a proposer edit train.py until `trials` trials are judged in total."""
        return actions.run(campaign(), proposer, trials, jobs)

    def trial(message: str) -> str:
        """Try the edit of train.py: commit, run, judge, then keep it or roll it back."""
        judged, _ = actions.trial(campaign(), message)
        return f"trial {judged.number}: {judged.status}: {why(judged)}"

    def rollback(last: bool = False) -> str:
        """Drop the edit of train.py. last: also undo the newest keep."""
        return actions.rollback(campaign(), last)

    def resume(looked: bool = False) -> str:
        """Continue an interrupted campaign. looked: a person has checked what stopped it."""
        return actions.resume(campaign(), looked)

    return [init, run, trial, rollback, resume]


def _reading_tools(campaign: Callable[..., Campaign]) -> list[Callable[..., str]]:
    def status() -> str:
        """Show the running trial, best program, noise, alpha spent, cost, and the path to edit."""
        import time

        current = campaign()
        places, state = current.places, current.state()
        lines = facts(places, state, time.time(), is_running(places))
        return "\n".join(f"{name}: {value}" for name, value in lines)

    def report(ending: bool = False) -> str:
        """Write report.html and chart. ending: run the final evaluation and close the campaign."""
        return "\n".join(map(str, actions.report(campaign(sure=ending), ending)))

    return [status, report]


def _with_tool_errors(tool: Callable[..., str]) -> Callable[..., str]:
    """Turn an error of lowbit into a tool error with the same message."""
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
        raise UserError(
            "the MCP server needs the MCP SDK: pip install 'lowbit[research]'"
        ) from None
    return MCPServer
