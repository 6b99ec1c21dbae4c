"""The actions on a campaign: one function per command, shared by the command line and MCP.

An action can be killed at any moment: the next action continues from the ledger. Every action that
changes a campaign holds its lock, so only one process at a time can do so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowbit.core.errors import RunError, UserError
from lowbit.research.campaign.git_branch import git
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.settings import (
    FILES,
    FIXED,
    MUTABLE,
    CampaignSettings,
    Places,
    campaign_folder,
    facts,
    resolve_tag,
    root_of,
)
from lowbit.research.campaign.state import CampaignState, Trial
from lowbit.research.loop import Loop
from lowbit.research.proposers import OURS, proposer
from lowbit.research.proposers.base import Proposal
from lowbit.research.session import Campaign


def init(folder: str, settings: CampaignSettings, dry_run: bool = False) -> dict[str, Any]:
    """Start a campaign on its own branch, from the committed files of a folder.

    Args:
        folder: Campaign folder with program.md, prepare.py and train.py.
        settings: Settings of the campaign; they cannot be changed later.
        dry_run: Check everything and return the plan, without changing anything.

    Returns:
        The base commit, the branch, the settings and, unless `dry_run`, the sizes of the texts.
    """
    from lowbit.models.find_model import resolve

    path = campaign_folder(folder)
    root = root_of(path)
    places = Places(path, settings.tag)
    base = _base_commit(root, places)
    places.branch.check()
    resolve(settings.model, "--model FOLDER")
    plan = {"base": base, "branch": places.branch.name, "settings": settings.to_json()}
    if dry_run:
        return plan
    from lowbit.research.candidate.text_split import prepare

    places.work.mkdir(parents=True, exist_ok=True)
    (places.work.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    texts = prepare(settings, places)
    ledger = Ledger(places.ledger)
    if ledger.events:
        raise UserError(
            f"campaign '{settings.tag}' exists already; to continue: lowbit research resume"
        )
    ledger.append("begun", **plan, texts=texts, facts=facts())
    with Campaign(places).loop() as loop:
        loop.settle()
    return {**plan, "texts": texts}


def _base_commit(root: Path, places: Places) -> str:
    """The commit that a campaign starts from; it must contain the three files."""
    try:
        base = git(root, "rev-parse", "--verify", "HEAD")
        for name in FILES:
            git(root, "cat-file", "-e", f"{base}:{places.path(name)}")
    except RunError:
        raise UserError(
            f"{', '.join(FILES)} must be committed, because a campaign starts from the last commit"
        ) from None
    return base


def run(
    campaign: Campaign, proposer_text: str, trials: int | None, jobs: int = 1, seed: int = 0
) -> str:
    """Propose and try changes until `trials` are judged in total, or until interrupted.

    Returns:
        Why the loop ended.
    """
    if (trials is not None and trials < 0) or jobs < 1:
        raise UserError("--trials must be at least 0, and --jobs at least 1")
    source = proposer(proposer_text, seed)
    with campaign.loop() as loop:
        loop.check_open()
        _check_no_edit_is_lost(loop)
        body = {"proposer": proposer_text, "trials": trials, "jobs": jobs, "seed": seed}
        if loop.state.stint != body:
            loop.writer.append("stint", **body)
        return loop.run(source, trials, jobs)


def preview(
    campaign: Campaign, proposer_text: str, trials: int | None, jobs: int, seed: int
) -> list[str]:
    """Lines that say what `run` would do next and how long it would take; changes nothing."""
    from lowbit.research.candidate import sandbox
    from lowbit.research.proposers.view import view

    state = campaign.state()
    settings, seeds = state.settings, len(state.settings.confirmation_seeds)
    left = None if trials is None else max(0, trials - len(state.judged_trials))
    source, change = proposer(proposer_text, seed), f"the answer of {proposer_text}"
    if source.name in OURS:
        proposal = source.propose(view(campaign.places, state))
        change = "nothing left to try" if proposal is None else proposal.description
    level = sandbox.available()
    overhead = max(settings.budget * 0.2, state.overhead())
    minutes = (settings.budget + overhead) / jobs / 60
    baseline = (len(settings.seeds) - len(state.baseline())) * minutes
    lines = [
        f"next       trial {state.next_number}: {change}",
        f"baseline   {baseline:.0f} min to measure the noise, on {len(settings.seeds)} seeds",
        f"trial      {minutes:.1f} min; a confirmation at most {2 * seeds * minutes:.0f} min more",
        f"isolation  files {level.files}, network {level.network}, processes {level.processes}",
    ]
    if left is not None:
        # After every keep the new incumbent runs on the same seeds, so at most once per trial.
        longest = left * (1 + 2 * seeds) * minutes
        lines.append(f"total      {left} trials, {left * minutes:.0f} to {longest:.0f} min")
    if not level.sealed:
        lines.append("warning    candidates can reach files or the network: keeps will be UNSEALED")
    return lines


def _check_no_edit_is_lost(loop: Loop) -> None:
    """Refuse if the worktree has an edit that was never tried: the loop would delete it."""
    places, state = loop.places, loop.state
    if not (places.tree / MUTABLE).is_file():
        return
    edited = loop.branch.changed_paths(state.incumbent)
    if edited == [places.path(MUTABLE)]:
        # A killed loop leaves an older incumbent or an open trial there; the ledger has both.
        text = (places.tree / MUTABLE).read_text(encoding="utf-8", errors="replace")
        commits = [state.base, *(trial.commit for trial in state.trials.values())]
        if any(text == loop.runs.text(commit) for commit in commits):
            return
    if edited:
        raise UserError(
            f"{places.tree / MUTABLE} has an edit that was not tried: try it with lowbit research "
            "trial, or drop it with lowbit research rollback"
        )


def resume(campaign: Campaign, looked: bool = False) -> str:
    """Continue a campaign with the arguments of its last `run`.

    Args:
        campaign: The campaign.
        looked: A person has checked what stopped the loop, so it may continue.

    Returns:
        Why the loop ended.
    """
    state = campaign.state()
    if looked and state.stop_reason:
        with campaign.loop() as loop:
            loop.writer.append("looked", reason=state.stop_reason)
    stint = campaign.state().stint
    if stint is None:
        with campaign.loop() as loop:
            loop.check_open()
            _check_no_edit_is_lost(loop)
            loop.settle()
            if not loop.state.open_trials:
                return (
                    "nothing to resume; continue with lowbit research run or lowbit research trial"
                )
            loop.baseline()
            loop.judge_all(loop.state.open_trials, 1)
            return "the interrupted trial has been judged"
    return run(campaign, stint["proposer"], stint["trials"], stint["jobs"], stint["seed"])


def trial(campaign: Campaign, message: str) -> tuple[Trial, CampaignState]:
    """Try the edit in the worktree's train.py: commit, run, judge, then keep it or roll it back."""
    with campaign.loop() as loop:
        loop.check_open()
        state = loop.state
        if not loop.places.tree.is_dir():
            loop.branch.create(state.incumbent)
        text, commit_message = _edit(loop, state)
        loop.baseline()
        # A killed trial of the same text is continued, not started again.
        unfinished = (
            candidate for candidate in state.open_trials if loop.runs.text(candidate.commit) == text
        )
        opened = next(unfinished, None) or loop.open_trial(
            Proposal(text, message or commit_message), "agent"
        )
        loop.judge_all(loop.state.open_trials, 1)
        loop.settle()
        return loop.state.trials[opened.number], loop.state


def _edit(loop: Loop, state: CampaignState) -> tuple[str, str]:
    """(train.py, last commit message) of the worktree; refuses edits of any other file."""
    branch, path = loop.branch, loop.places.path(MUTABLE)
    paths = branch.changed_paths(state.incumbent)
    others = [name for name in paths if name != path]
    if others:
        problem = "read-only" if loop.places.path(FIXED) in others else "not part of a trial"
        raise UserError(
            f"{', '.join(others)}: {problem}; a trial may change only {MUTABLE}. Restore it, or "
            "drop all edits with lowbit research rollback"
        )
    if path not in paths:
        raise UserError(f"{loop.places.tree / MUTABLE} is unchanged: a trial needs a change")
    has_commit = git(branch.worktree, "rev-parse", "HEAD") != state.incumbent
    message = git(branch.worktree, "log", "-1", "--format=%s") if has_commit else ""
    return (loop.places.tree / MUTABLE).read_text(encoding="utf-8"), message


def report(
    campaign: Campaign,
    ending: bool = False,
    jobs: int = 1,
    against: Sequence[str] = (),
    early: bool = False,
) -> list[Path]:
    """Write the report; with `ending`, run the final evaluation and close the campaign first.

    Args:
        campaign: The campaign.
        ending: Run the final evaluation. No trial is accepted afterwards.
        jobs: Runs at a time in the final evaluation.
        against: Tags of other campaigns to compare with.
        early: Allow the final evaluation before all requested trials are judged.

    Returns:
        Paths of the files that were written.
    """
    from importlib.metadata import version

    from lowbit.research.final_evaluation import end
    from lowbit.research.report import page

    if ending:
        with campaign.loop() as loop:
            end(loop, jobs, early)
    places = campaign.places
    tags = [resolve_tag(places.folder, tag) for tag in against]
    others = [(tag, Campaign(Places(places.folder, tag)).state()) for tag in tags]
    return page.write(places, campaign.state(), others, f"lowbit {version('lowbit')}")


def rollback(campaign: Campaign, last: bool = False) -> str:
    """Drop the edit in the worktree; with `last`, also undo the newest keep."""
    with campaign.loop() as loop:
        loop.settle()
        loop.branch.clean()
        state = loop.state
        if not last:
            return "the worktree is back at the best program so far"
        if not state.keeps:
            raise UserError("no change has been kept, so there is no keep to undo")
        loop.check_open()
        number = state.keeps[-1]
        previous = state.commit_of(state.keeps[-2]) if len(state.keeps) > 1 else state.base
        loop.writer.append("undone", number=number, incumbent=previous)
        loop.settle()
        return f"trial {number} is no longer kept; its commit stays at {loop.branch.ref(number)}"
