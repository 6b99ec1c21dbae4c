"""What can be done with a campaign: the same verbs for the command line, agents and MCP.

Each takes a folder and a tag (None: the newest campaign there) and leaves a campaign that the next
one finds as it should be, whatever killed it in between. Whoever changes anything holds the lock.
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
    """Begin a campaign on a branch of its own, from the committed files of a folder."""
    from lowbit.models.loading import resolve

    path = campaign_folder(folder)
    root = root_of(path)
    places = Places(path, settings.tag)
    base = _committed(root, places)
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
        raise UserError(f"campaign '{settings.tag}' has begun already: lowbit research resume")
    ledger.append("begun", **plan, texts=texts, facts=facts())
    with Campaign(places).loop() as loop:
        loop.settle()
    return {**plan, "texts": texts}


def _committed(root: Path, places: Places) -> str:
    """The commit that a campaign starts from; the files must be in it."""
    try:
        base = git(root, "rev-parse", "--verify", "HEAD")
        for name in FILES:
            git(root, "cat-file", "-e", f"{base}:{places.path(name)}")
    except RunError:
        raise UserError(
            f"{', '.join(FILES)} must be committed: a campaign starts from the last commit"
        ) from None
    return base


def run(
    campaign: Campaign, proposer_text: str, trials: int | None, jobs: int = 1, seed: int = 0
) -> str:
    """Drive: propose and try until so many trials are judged, or until interrupted."""
    if (trials is not None and trials < 0) or jobs < 1:
        raise UserError("--trials counts from 0, and --jobs from 1")
    chosen = proposer(proposer_text, seed)
    with campaign.loop() as loop:
        loop.check_open()
        _no_edit_lost(loop)
        body = {"proposer": proposer_text, "trials": trials, "jobs": jobs, "seed": seed}
        if loop.state.stint != body:
            loop.writer.append("stint", **body)
        return loop.run(chosen, trials, jobs)


def preview(
    campaign: Campaign, proposer_text: str, trials: int | None, jobs: int, seed: int
) -> list[str]:
    """What `run` would do next, and what it would take; nothing is changed."""
    from lowbit.research.candidate import sandbox
    from lowbit.research.proposers.view import view

    state = campaign.state()
    settings, seeds = state.settings, len(state.settings.confirmation_seeds)
    left = None if trials is None else max(0, trials - len(state.judged_trials))
    chosen, change = proposer(proposer_text, seed), f"whatever {proposer_text} says"
    if chosen.name in OURS:
        proposal = chosen.propose(view(campaign.places, state))
        change = "nothing more to try" if proposal is None else proposal.description
    level = sandbox.available()
    room = max(settings.budget * 0.2, state.overhead())
    each = (settings.budget + room) / jobs / 60
    first = (len(settings.seeds) - len(state.baseline())) * each
    lines = [
        f"next       trial {state.next_number}: {change}",
        f"baseline   {first:.0f} min to measure the noise, on {len(settings.seeds)} seeds",
        f"a trial    {each:.1f} min; a confirmation {2 * seeds * each:.0f} min at most",
        f"isolation  files {level.files}, network {level.network}, processes {level.processes}",
    ]
    if left is not None:
        # The incumbent runs on the same seeds after every keep, so at most once a trial.
        longest = left * (1 + 2 * seeds) * each
        lines.append(f"in all     {left} trials, {left * each:.0f} to {longest:.0f} min")
    if not level.sealed:
        lines.append("warning    files or network are within a candidate's reach: keeps unsealed")
    return lines


def _no_edit_lost(loop: Loop) -> None:
    """An agent's edit that nobody has tried is not thrown away by a loop that begins."""
    places, state = loop.places, loop.state
    if not (places.tree / MUTABLE).is_file():
        return
    edited = loop.branch.changed_paths(state.incumbent)
    if edited == [places.path(MUTABLE)]:
        # What a kill left there is in the ledger: an older incumbent, or a trial that is open.
        text = (places.tree / MUTABLE).read_text(encoding="utf-8", errors="replace")
        commits = [state.base, *(trial.commit for trial in state.trials.values())]
        if any(text == loop.runs.text(commit) for commit in commits):
            return
    if edited:
        raise UserError(
            f"{places.tree / MUTABLE} has an edit that was not tried: lowbit research trial tries "
            "it, rollback drops it"
        )


def resume(campaign: Campaign, looked: bool = False) -> str:
    """Go on as the last `run` was told to."""
    state = campaign.state()
    if looked and state.stop_reason:
        with campaign.loop() as loop:
            loop.writer.append("looked", reason=state.stop_reason)
    stint = campaign.state().stint
    if stint is None:
        with campaign.loop() as loop:
            loop.check_open()
            _no_edit_lost(loop)
            loop.settle()
            if not loop.state.open_trials:
                return "nothing was being run; lowbit research run, or an agent's trial, goes on"
            loop.baseline()
            loop.judge_all(loop.state.open_trials, 1)
            return "the trial that was interrupted has been judged"
    return run(campaign, stint["proposer"], stint["trials"], stint["jobs"], stint["seed"])


def trial(campaign: Campaign, message: str) -> tuple[Trial, CampaignState]:
    """Try the edit that is in the worktree's train.py: commit, run, judge, keep or roll back."""
    with campaign.loop() as loop:
        loop.check_open()
        state = loop.state
        if not loop.places.tree.is_dir():
            loop.branch.create(state.incumbent)
        text, commit_message = _edit(loop, state)
        loop.baseline()
        # A trial that was killed is gone on with, not begun again.
        unfinished = (
            candidate for candidate in state.open_trials if loop.runs.text(candidate.commit) == text
        )
        tried = next(unfinished, None) or loop.open_trial(
            Proposal(text, message or commit_message), "agent"
        )
        loop.judge_all(loop.state.open_trials, 1)
        loop.settle()
        return loop.state.trials[tried.number], loop.state


def _edit(loop: Loop, state: CampaignState) -> tuple[str, str]:
    """The worktree's train.py and what its last commit said; nothing else may be edited."""
    branch, path = loop.branch, loop.places.path(MUTABLE)
    edited = branch.changed_paths(state.incumbent)
    others = [name for name in edited if name != path]
    if others:
        what = "read-only" if loop.places.path(FIXED) in others else "no part of a trial"
        raise UserError(
            f"{', '.join(others)}: {what}; only {MUTABLE} may change. Put it back, or lowbit "
            "research rollback drops all that was edited"
        )
    if path not in edited:
        raise UserError(f"{loop.places.tree / MUTABLE} is as it was: a trial needs a change")
    own = git(branch.worktree, "rev-parse", "HEAD") != state.incumbent
    message = git(branch.worktree, "log", "-1", "--format=%s") if own else ""
    return (loop.places.tree / MUTABLE).read_text(encoding="utf-8"), message


def report(
    campaign: Campaign,
    ending: bool = False,
    jobs: int = 1,
    against: Sequence[str] = (),
    early: bool = False,
) -> list[Path]:
    """Write the report; with `ending`, close the campaign first.

    `early`: though not as many trials are judged as it was told to make.
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
    """Drop the edit in the worktree; with `last`, also take back the newest keep."""
    with campaign.loop() as loop:
        loop.settle()
        loop.branch.clean()
        state = loop.state
        if not last:
            return "the worktree is as the best so far"
        if not state.keeps:
            raise UserError("nothing has been kept: there is no keep to take back")
        loop.check_open()
        number = state.keeps[-1]
        back = state.commit_of(state.keeps[-2]) if len(state.keeps) > 1 else state.base
        loop.writer.append("undone", number=number, incumbent=back)
        loop.settle()
        return f"trial {number} is no longer kept; it stays under {loop.branch.ref(number)}"
