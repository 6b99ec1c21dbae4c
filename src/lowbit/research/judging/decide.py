"""What becomes of a trial: refused, crashed, discarded, or kept.

In this order: a change of nothing is not run; a run that fails is a crash; what is no better on one
seed, or heavier without lying on the front, is discarded; what is left is confirmed on every seed
against the incumbent, under its share of the campaign's alpha.
"""

from __future__ import annotations

from collections.abc import Iterable

from lowbit.core.errors import RunError, UserError
from lowbit.research.campaign import edits, significance
from lowbit.research.campaign.ledger_writer import LedgerWriter
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import MUTABLE, Places
from lowbit.research.campaign.state import Key, State, Trial
from lowbit.research.judging.run_cache import Runs, matrix

FUTILITY = 2
"""Seeds after which a confirmation without any gain is given up."""


class Decider:
    """Asks for the runs that a decision needs, and writes it down."""

    def __init__(self, writer: LedgerWriter, runs: Runs, places: Places) -> None:
        self.writer, self.runs, self.places = writer, runs, places
        self.branch = places.branch

    def refused(self, trial: Trial) -> bool:
        """A change that is none is discarded unrun."""
        before, after = self.runs.text(trial.base), self.runs.text(trial.commit)
        try:
            same = edits.nothing_but_a_seed(before, after)
        except (UserError, RecursionError, MemoryError) as error:
            self.writer.judge(trial, "crash", str(error) or type(error).__name__)
            return True
        if same:
            self.writer.judge(trial, "discard", "nothing but a seed, or nothing, was changed")
        return same

    def decide(self, trial: Trial, jobs: int) -> None:
        ran = self._screened(trial)
        if ran is not None and trial.base != self.writer.state.incumbent:
            moved = self._merged(trial)
            ran = None if moved is None else self._screened(moved)
            trial = moved or trial
        if ran is None:
            return
        state = self.writer.state
        theirs = state.screened(state.incumbent)
        noise = state.noise()
        assert theirs is not None
        assert noise is not None
        ours, other = ran.scores["screening"].loss, self._other(trial, ran, theirs, jobs)
        if not significance.worth_confirming(ours, other, noise):
            self.writer.judge(trial, "discard", "no better on one seed")
        elif not self._bits_allow(state, ran, theirs, ours):
            self.writer.judge(trial, "discard", "another bit class, and not on the front")
        else:
            self._confirm(trial, jobs)

    def _other(self, trial: Trial, ours: RunResult, theirs: RunResult, jobs: int) -> float:
        """The incumbent's loss by the clock of the machine that the trial had."""
        if trial.against is not None:
            return trial.against
        if jobs > 1 or significance.similar_speed(ours.evaluated, theirs.evaluated):
            return theirs.scores["screening"].loss
        state = self.writer.state
        key: Key = (state.incumbent, "again", state.settings.seeds[0])
        rescreened = state.runs.get(key)
        if (
            rescreened is None
            or rescreened.reason
            or not significance.similar_speed(ours.evaluated, rescreened.evaluated)
        ):
            rescreened = self.runs.anew(key)
        if rescreened.reason:
            raise RunError(
                f"the incumbent no longer runs ({rescreened.reason}): {rescreened.detail}"
            )
        against = rescreened.scores["screening"].loss
        self.writer.append("against", number=trial.number, against=against)
        return against

    def _screened(self, trial: Trial) -> RunResult | None:
        """One seed of it; None where that failed, and the trial with it."""
        seed = self.writer.state.settings.seeds[0]
        (ran,) = self.runs.results([(trial.commit, "screen", seed)], 1)
        return None if self._failed(trial, [ran]) else ran

    def _bits_allow(self, state: State, ran: RunResult, theirs: RunResult, ours: float) -> bool:
        assert ran.bits is not None
        assert theirs.bits is not None
        first = state.screened(state.base)
        assert first is not None
        assert first.bits is not None
        # The tolerance is the first program's, so that many small steps do not add up.
        if ran.bits <= theirs.bits or significance.in_class(ran.bits, first.bits):
            return True
        results = [state.screened(state.commit_of(number)) for number in (0, *state.keeps)]
        points = [(ran.bits, ran.scores["screening"].loss) for ran in results if ran and ran.bits]
        return significance.on_front(ran.bits, ours, points)

    def _confirm(self, trial: Trial, jobs: int) -> None:
        """On every seed, candidate and incumbent both; given up where two seeds show no gain."""
        if trial.confirmation is None:
            self.writer.append("confirming", number=trial.number)
            trial = self.writer.state.trials[trial.number]
        state = self.writer.state
        assert trial.confirmation is not None
        settings = state.settings
        alpha = significance.alpha_share(settings.alpha, trial.confirmation, settings.horizon)
        for count in (FUTILITY, len(settings.confirming)):
            seeds = settings.confirming[:count]
            ours = self.runs.results([(trial.commit, "confirm", seed) for seed in seeds], jobs)
            if self._failed(trial, ours) or self._other_bits(trial, ours):
                return
            keys: list[Key] = [(state.incumbent, "confirm", seed) for seed in seeds]
            theirs = self.runs.results(keys, jobs, again=True)
            bad = next((ran for ran in theirs if ran.reason), None)
            if bad is not None:
                raise RunError(f"the incumbent no longer runs ({bad.reason}): {bad.detail}")
            pair = (matrix(ours, "confirmation"), matrix(theirs, "confirmation"))
            if significance.no_gain(*pair):
                self.writer.judge(trial, "discard", f"no better on {count} seeds", alpha=alpha)
                return
        verdict = significance.confirm(*pair, alpha)
        gain = verdict.gain.estimate if verdict.gain else None
        runs = [*ours, *theirs]
        self.writer.judge(
            trial,
            "keep" if verdict.keep else "discard",
            verdict.reason if verdict.keep else "the gain may be noise",
            gain=gain,
            p=verdict.p,
            alpha=alpha,
            unsealed=not all(ran.sealed for ran in runs),
        )

    def _moved(self, trial: Trial, onto: str) -> str | None:
        """A typed edit is made again, whatever stands on the lines beside it; others are merged."""
        base, now = self.runs.text(trial.base), self.runs.text(onto)
        if trial.edit is None:
            return self.branch.merged(base, now, self.runs.text(trial.commit))
        name, value = trial.edit
        before, after = edits.constants(base), edits.constants(now)
        same = name in after and before.get(name) == after[name]
        return edits.change(now, name, value) if same else None

    def _other_bits(self, trial: Trial, runs: Iterable[RunResult]) -> bool:
        """Whether it exports something else when it is confirmed than when it was screened."""
        screened = self.writer.state.screened(trial.commit)
        assert screened is not None
        assert screened.bits is not None
        apart = [
            ran.bits
            for ran in runs
            if abs((ran.bits or 0.0) - screened.bits) > significance.SAME_BITS
        ]
        if not apart:
            return False
        self.writer.judge(
            trial, "crash", f"{screened.bits:g} bits screened, {apart[0]:g} confirmed"
        )
        return True

    def _failed(self, trial: Trial, runs: Iterable[RunResult]) -> bool:
        bad = next((ran for ran in runs if ran.reason), None)
        if bad is None:
            return False
        stop = {"stop": f"trial {trial.number}: {bad.detail}"} if bad.reason == "claim" else {}
        self.writer.judge(trial, "crash", bad.reason, **stop)
        return True

    def _merged(self, trial: Trial) -> Trial | None:
        """A trial whose incumbent has gone: its change on the new one."""
        state, path = self.writer.state, self.places.path(MUTABLE)
        text = self._moved(trial, state.incumbent)
        if text is None or text == self.runs.text(state.incumbent):
            self.writer.judge(trial, "discard", "superseded by an earlier keep")
            return None
        message = f"{trial.number}: {trial.description}"
        commit = self.branch.candidate(state.incumbent, path, text, message, trial.at)
        state = self.writer.append(
            "rebased", number=trial.number, base=state.incumbent, commit=commit
        )
        self.branch.mark(trial.number, commit)
        return state.trials[trial.number]
