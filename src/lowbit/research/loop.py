"""The research loop: propose a change, screen it, confirm it, keep it or discard it.

The loop can be killed at any moment. Every run has a key, and a result that the ledger already has
is not computed again, so calling `run` again continues the campaign. `settle` makes git and
`results.tsv` agree with the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain, repeat

from lowbit.core.errors import RunError, UserError
from lowbit.core.files import to_json, write_atomic
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.ledger_writer import LedgerWatcher, LedgerWriter, ignore_event
from lowbit.research.campaign.results_tsv import to_tsv
from lowbit.research.campaign.settings import MUTABLE, TRIAL_FILE, Places
from lowbit.research.campaign.state import CampaignState, Key, Trial, rows
from lowbit.research.candidate.sealed_run import Runner
from lowbit.research.judging.decide import Decider
from lowbit.research.judging.run_cache import RunCache
from lowbit.research.proposers import OURS
from lowbit.research.proposers.base import Proposal, Proposer
from lowbit.research.proposers.view import view

LONGEST = 200
PAUSES = (10.0, 60.0, 300.0, 900.0)
"""Seconds to wait before a proposer that failed is called again; the last value repeats."""
# Errors that an external program or server may cause. UserError is none of them.
FAILURES = (RunError, OSError, ValueError, TypeError, AttributeError, LookupError)


class Loop:
    """The research loop over one campaign; it continues from the ledger."""

    def __init__(
        self,
        places: Places,
        ledger: Ledger,
        runner: Runner,
        watch: LedgerWatcher = ignore_event,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.places, self.branch, self.clock, self.wait = places, places.branch, clock, wait
        self.writer = LedgerWriter(ledger, watch)
        self.runs = RunCache(self.writer, places, runner)
        self.decider = Decider(self.writer, self.runs, places)

    @property
    def state(self) -> CampaignState:
        return self.writer.state

    # --- git and results.tsv from the state ---------------------------------------------------

    def settle(self, worktree: bool = True) -> None:
        """Make refs, branch, worktree and results.tsv agree with the ledger."""
        state = self.state
        self.branch.unlock()
        for trial in state.trials.values():
            self.branch.mark(trial.number, trial.commit)
        if worktree:
            self.branch.create(state.incumbent)
        table = to_tsv(rows(state)).encode()
        for folder in (self.places.results, self.places.tree):
            if folder.is_dir():
                write_atomic(folder / "results.tsv", table)
        describe = getattr(self.runs.runner, "trial_description", None)
        if describe is not None and self.places.tree.is_dir():
            # With this file a person can run `python train.py` in the worktree.
            write_atomic(self.places.tree / TRIAL_FILE, (to_json(describe()) + "\n").encode())

    # --- the loop -----------------------------------------------------------------------------

    def run(self, proposer: Proposer, trials: int | None, jobs: int = 1) -> str:
        """Propose and judge until `trials` are judged (None: no limit). Returns why it ended."""
        self.check_open()
        self.settle()
        self.baseline(jobs)
        while True:
            state = self.state
            if state.stop_reason:
                return state.stop_reason
            if state.missing_proposals:
                self.propose(proposer, state.missing_proposals)
            self.judge_all(state.open_trials, jobs)
            state = self.state
            left = None if trials is None else trials - len(state.judged_trials)
            if state.stop_reason or (left is not None and left <= 0):
                return state.stop_reason or "all trials done"
            count = jobs if left is None else min(jobs, left)
            if count > 1:
                self.writer.append("round", after=state.next_number - 1, wanted=count)
            if not self.propose(proposer, count):
                return "the proposer has nothing left to try"

    def check_open(self) -> None:
        """Refuse if a person must look at a trial first, or if the sealed text has been opened."""
        state = self.state
        if state.stop_reason:
            raise UserError(
                f"the loop has stopped: {state.stop_reason}. Check the trial (lowbit research "
                "status), then run lowbit research resume --looked"
            )
        if state.sealed_commits is not None:
            raise UserError(
                "the sealed text of this campaign has been opened, so a new trial could depend on "
                "it: start another campaign with lowbit research init --tag"
            )

    def baseline(self, jobs: int = 1) -> None:
        """Screen the first program on every seed: this gives its noise and its number of tokens."""
        state = self.state
        keys: list[Key] = [(state.base, "screen", seed) for seed in state.settings.seeds]
        for batch in (keys[:1], keys):
            for run in self.runs.results(batch, jobs, again=True):
                if run.reason:
                    raise RunError(
                        f"the unmodified program fails ({run.reason}), so nothing can be compared "
                        f"with it:\n{run.detail}"
                    )
        if min(run.tokens for run in self.state.baseline()) < 1:
            raise RunError(
                "the unmodified program trains on no token within its budget: start a campaign "
                "with a larger --budget"
            )
        self.settle(worktree=False)

    def propose(self, proposer: Proposer, count: int) -> int:
        """Open up to `count` trials with changes of the incumbent; returns how many."""
        for number in range(count):
            proposal = self._next_proposal(proposer)
            if proposal is None:
                return number
            self.open_trial(proposal, proposer.name)
        return count

    def _next_proposal(self, proposer: Proposer) -> Proposal | None:
        """The next proposal; an external proposer that fails is called again after a pause."""
        if proposer.name in OURS:
            return proposer.propose(view(self.places, self.state))
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            try:
                proposal = proposer.propose(view(self.places, self.state))
                return None if proposal is None else _valid(proposal)
            except FAILURES as error:
                reason = f"{type(error).__name__}: {error}"
                self.writer.append("unproposed", by=proposer.name, reason=reason, pause=pause)
                self.wait(pause)
        raise AssertionError("the last pause repeats for ever")

    def open_trial(self, proposal: Proposal, by: str) -> Trial:
        """Commit a proposal and write it to the ledger."""
        state = self.state
        text = proposal.description.replace("\0", " ").encode("utf-8", "replace").decode()
        description = " ".join(text.split())[:LONGEST] or "no description"
        number, at, base = state.next_number, round(self.clock(), 3), state.incumbent
        path = self.places.path(MUTABLE)
        commit = self.branch.commit_candidate(
            base, path, proposal.text, f"{number}: {description}", at
        )
        details = {"description": description, "by": by, "cost": dict(proposal.cost)}
        edit = list(proposal.edit) if proposal.edit else None
        state = self.writer.append(
            "proposed", number=number, base=base, commit=commit, edit=edit, **details
        )
        self.branch.mark(number, commit)
        return state.trials[number]

    def judge_all(self, trials: Sequence[Trial], jobs: int) -> None:
        """Screen up to `jobs` trials at a time, then decide in the order of their numbers."""
        valid = [trial for trial in trials if not self.decider.reject_if_trivial(trial)]
        seed = self.state.settings.seeds[0]
        self.runs.results([(trial.commit, "screen", seed) for trial in valid], jobs)
        for trial in valid:
            if self.state.stop_reason:
                return
            self.decider.decide(self.state.trials[trial.number], jobs)
            self.settle()


def _valid(proposal: Proposal) -> Proposal:
    """The proposal; raises if its text cannot be written to a file."""
    proposal.text.encode("utf-8")
    if "\0" in proposal.text:
        raise ValueError("the proposed program contains a zero byte")
    return proposal
