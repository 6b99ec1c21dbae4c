"""The campaign's one machine: propose, screen, confirm, keep or not. It can be killed anywhere.

Every result is asked for by what it is, and taken from the ledger where it is there already, so
that going on after a kill is nothing but calling `run` again. What git and `results.tsv` show is
put right by `settle`, from the state.
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
"""Seconds to wait before a proposer that failed is asked again; the last for ever."""
# Whatever somebody else's program or server may answer; a user's mistake is none of them.
FAILURES = (RunError, OSError, ValueError, TypeError, AttributeError, LookupError)


class Loop:
    """A campaign that goes on from wherever its ledger is."""

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

    # --- what follows from the state ----------------------------------------------------------

    def settle(self, worktree: bool = True) -> None:
        """Refs, branch, worktree and results.tsv as the ledger has it."""
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
        described = getattr(self.runs.runner, "trial_description", None)
        if described is not None and self.places.tree.is_dir():
            # With it `python train.py` runs in the worktree, by hand.
            write_atomic(self.places.tree / TRIAL_FILE, (to_json(described()) + "\n").encode())

    # --- the loop -----------------------------------------------------------------------------

    def run(self, proposer: Proposer, trials: int | None, jobs: int = 1) -> str:
        """Until so many trials are judged, or for ever. Returns why it ended."""
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
                return "the proposer knows nothing more to try"

    def check_open(self) -> None:
        """Refuse where a person has to look first, or where all is over."""
        state = self.state
        if state.stop_reason:
            raise UserError(
                f"the loop has stopped: {state.stop_reason}. Look at the trial (lowbit research "
                "status), then: lowbit research resume --looked"
            )
        if state.sealed_commits is not None:
            raise UserError(
                "the sealed text of this campaign has been opened, and whatever followed could "
                "know of it: begin another with lowbit research init --tag"
            )

    def baseline(self, jobs: int = 1) -> None:
        """The program as it is, by the clock on every seed: its noise and its number of tokens."""
        state = self.state
        keys: list[Key] = [(state.base, "screen", seed) for seed in state.settings.seeds]
        for some in (keys[:1], keys):
            for ran in self.runs.results(some, jobs, again=True):
                if ran.reason:
                    raise RunError(
                        f"the unmodified program fails ({ran.reason}), so nothing can be compared "
                        f"with it:\n{ran.detail}"
                    )
        if min(ran.tokens for ran in self.state.baseline()) < 1:
            raise RunError("the unmodified program trains on no token in its budget: a longer one")
        self.settle(worktree=False)

    def propose(self, proposer: Proposer, count: int) -> int:
        """Ask for changes of the incumbent; how many there are now."""
        for number in range(count):
            proposal = self._next_proposal(proposer)
            if proposal is None:
                return number
            self.open_trial(proposal, proposer.name)
        return count

    def _next_proposal(self, proposer: Proposer) -> Proposal | None:
        """A night is long, and a proposer that is somebody else's may be away for a while."""
        if proposer.name in OURS:
            return proposer.propose(view(self.places, self.state))
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            try:
                proposal = proposer.propose(view(self.places, self.state))
                return None if proposal is None else _checked(proposal)
            except FAILURES as error:
                reason = f"{type(error).__name__}: {error}"
                self.writer.append("unproposed", by=proposer.name, reason=reason, pause=pause)
                self.wait(pause)
        raise AssertionError("it is asked for ever")

    def open_trial(self, proposal: Proposal, by: str) -> Trial:
        """A change becomes a commit, and a line in the ledger."""
        state = self.state
        text = proposal.description.replace("\0", " ").encode("utf-8", "replace").decode()
        description = " ".join(text.split())[:LONGEST] or "a change without a word"
        number, at, base = state.next_number, round(self.clock(), 3), state.incumbent
        path = self.places.path(MUTABLE)
        commit = self.branch.commit_candidate(
            base, path, proposal.text, f"{number}: {description}", at
        )
        about = {"description": description, "by": by, "cost": dict(proposal.cost)}
        edit = list(proposal.edit) if proposal.edit else None
        state = self.writer.append(
            "proposed", number=number, base=base, commit=commit, edit=edit, **about
        )
        self.branch.mark(number, commit)
        return state.trials[number]

    def judge_all(self, trials: Sequence[Trial], jobs: int) -> None:
        """Screen side by side, then decide in the order of their numbers."""
        fit = [trial for trial in trials if not self.decider.reject_if_trivial(trial)]
        seed = self.state.settings.seeds[0]
        self.runs.results([(trial.commit, "screen", seed) for trial in fit], jobs)
        for trial in fit:
            if self.state.stop_reason:
                return
            self.decider.decide(self.state.trials[trial.number], jobs)
            self.settle()


def _checked(proposal: Proposal) -> Proposal:
    """Refused where it is no text that a file could hold."""
    proposal.text.encode("utf-8")
    if "\0" in proposal.text:
        raise ValueError("the proposed program has a zero byte in it")
    return proposal
