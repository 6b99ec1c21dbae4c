"""Decides whether a trial is rejected, a crash, discarded or kept.

The steps, in this order:

1. An edit that changes nothing but a seed is discarded without a run.
2. A trial whose run fails is a crash.
3. A trial that is no better on the screening seed is discarded. So is one with more bits a weight,
   unless it is on the Pareto front of bits and loss.
4. Every other trial is confirmed: candidate and incumbent run on all confirmation seeds, and a
   paired test with the confirmation's share of alpha decides.

The cheap steps come first, so most trials cost one run. The price is that a real gain may be
discarded by an unlucky screening seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lowbit.core.errors import RunError, UserError
from lowbit.research.campaign import edits, significance
from lowbit.research.campaign.ledger_writer import LedgerWriter
from lowbit.research.campaign.run_result import RunResult
from lowbit.research.campaign.settings import MUTABLE, Places
from lowbit.research.campaign.state import CampaignState, Key, Trial
from lowbit.research.judging.run_cache import RunCache, matrix

FUTILITY = 2
"""A confirmation that shows no gain after this many seeds stops early."""


class Decider:
    """Requests the runs that a decision needs, and writes the decision to the ledger."""

    def __init__(self, writer: LedgerWriter, runs: RunCache, places: Places) -> None:
        self.writer, self.runs, self.places = writer, runs, places
        self.branch = places.branch

    def reject_if_trivial(self, trial: Trial) -> bool:
        """End a trial without a run if its edit changes only a seed or does not parse."""
        before, after = self.runs.text(trial.base), self.runs.text(trial.commit)
        try:
            same = edits.only_seeds_differ(before, after)
        except (UserError, RecursionError, MemoryError) as error:
            self.writer.judge(trial, "crash", str(error) or type(error).__name__)
            return True
        if same:
            self.writer.judge(trial, "discard", "the edit changes nothing, or only a seed")
        return same

    def decide(self, trial: Trial, jobs: int) -> None:
        """Judge a trial: screen it, then confirm it if screening lets it through."""
        run = self._screen(trial)
        if run is not None and trial.base != self.writer.state.incumbent:
            rebased = self._rebase(trial)
            run = None if rebased is None else self._screen(rebased)
            trial = rebased or trial
        if run is None:
            return
        state = self.writer.state
        incumbent = state.screening_run(state.incumbent)
        noise = state.noise()
        assert incumbent is not None
        assert noise is not None
        loss = run.scores["screening"].loss
        reference = self._reference_loss(trial, run, incumbent, jobs)
        if not significance.worth_confirming(loss, reference, noise):
            self.writer.judge(trial, "discard", "no better on one seed")
        elif not self._bits_allow(state, run, incumbent, loss):
            self.writer.judge(trial, "discard", "more bits a weight, and not on the Pareto front")
        else:
            self._confirm(trial, jobs)

    def _reference_loss(
        self, trial: Trial, run: RunResult, incumbent: RunResult, jobs: int
    ) -> float:
        """The incumbent's screening loss at the speed that the machine had for the trial.

        A screening run has a budget in seconds, so its loss depends on the machine's speed. If the
        time of the evaluation shows another speed, the incumbent is screened again. With several
        jobs at a time the runs slow each other down, so speeds cannot be compared.
        """
        if trial.against is not None:
            return trial.against
        if jobs > 1 or significance.similar_speed(run.evaluated, incumbent.evaluated):
            return incumbent.scores["screening"].loss
        state = self.writer.state
        key: Key = (state.incumbent, "again", state.settings.seeds[0])
        repeat = state.runs.get(key)
        if (
            repeat is None
            or repeat.reason
            or not significance.similar_speed(run.evaluated, repeat.evaluated)
        ):
            repeat = self.runs.rerun(key)
        _check_incumbent([repeat])
        against = repeat.scores["screening"].loss
        self.writer.append("against", number=trial.number, against=against)
        return against

    def _screen(self, trial: Trial) -> RunResult | None:
        """The trial's screening run; None if it failed, which ends the trial."""
        seed = self.writer.state.settings.seeds[0]
        (run,) = self.runs.results([(trial.commit, "screen", seed)], 1)
        return None if self._crash_if_failed(trial, [run]) else run

    def _bits_allow(
        self, state: CampaignState, run: RunResult, incumbent: RunResult, loss: float
    ) -> bool:
        """Whether the bits a weight are no more than the incumbent's, or worth it on the front."""
        assert run.bits is not None
        assert incumbent.bits is not None
        first = state.screening_run(state.base)
        assert first is not None
        assert first.bits is not None
        # The tolerance refers to the first program, so that many small steps do not add up.
        if run.bits <= incumbent.bits or significance.in_class(run.bits, first.bits):
            return True
        keeps = [state.screening_run(state.commit_of(number)) for number in (0, *state.keeps)]
        points = [
            (keep.bits, keep.scores["screening"].loss) for keep in keeps if keep and keep.bits
        ]
        return significance.on_front(run.bits, loss, points)

    def _confirm(self, trial: Trial, jobs: int) -> None:
        """Run candidate and incumbent on every seed and test; stop early if there is no gain."""
        if trial.confirmation is None:
            self.writer.append("confirming", number=trial.number)
            trial = self.writer.state.trials[trial.number]
        state = self.writer.state
        assert trial.confirmation is not None
        settings = state.settings
        alpha = significance.alpha_share(settings.alpha, trial.confirmation, settings.horizon)
        for count in (FUTILITY, len(settings.confirmation_seeds)):
            seeds = settings.confirmation_seeds[:count]
            candidate = self.runs.results([(trial.commit, "confirm", seed) for seed in seeds], jobs)
            if self._crash_if_failed(trial, candidate) or self._crash_if_bits_vary(
                trial, candidate
            ):
                return
            keys: list[Key] = [(state.incumbent, "confirm", seed) for seed in seeds]
            incumbent = self.runs.results(keys, jobs, again=True)
            _check_incumbent(incumbent)
            pair = (matrix(candidate, "confirmation"), matrix(incumbent, "confirmation"))
            if significance.no_gain(*pair):
                self.writer.judge(trial, "discard", f"no better on {count} seeds", alpha=alpha)
                return
        verdict = significance.confirm(*pair, alpha)
        self._judge_confirmation(trial, verdict, [*candidate, *incumbent])

    def _judge_confirmation(
        self, trial: Trial, verdict: significance.Verdict, runs: Sequence[RunResult]
    ) -> None:
        self.writer.judge(
            trial,
            "keep" if verdict.keep else "discard",
            verdict.reason if verdict.keep else "the gain may be noise",
            gain=verdict.gain.estimate if verdict.gain else None,
            p=verdict.p,
            alpha=verdict.alpha,
            unsealed=not all(run.sealed for run in runs),
        )

    def _rebased_text(self, trial: Trial, onto: str) -> str | None:
        """The trial's edit applied to another commit; None if that commit changed the same place.

        An edit of one dial is made again, whatever changed on other lines. Other edits are merged.
        """
        base, current = self.runs.text(trial.base), self.runs.text(onto)
        if trial.edit is None:
            return self.branch.merge(base, current, self.runs.text(trial.commit))
        name, value = trial.edit
        before, after = edits.constants(base), edits.constants(current)
        same = name in after and before.get(name) == after[name]
        return edits.change(current, name, value) if same else None

    def _crash_if_bits_vary(self, trial: Trial, runs: Iterable[RunResult]) -> bool:
        """End a trial that exports other bits a weight in its confirmation than when screened."""
        screening = self.writer.state.screening_run(trial.commit)
        assert screening is not None
        assert screening.bits is not None
        differing = [
            run.bits
            for run in runs
            if abs((run.bits or 0.0) - screening.bits) > significance.SAME_BITS
        ]
        if not differing:
            return False
        reason = f"{screening.bits:g} bits screened, {differing[0]:g} confirmed"
        self.writer.judge(trial, "crash", reason)
        return True

    def _crash_if_failed(self, trial: Trial, runs: Iterable[RunResult]) -> bool:
        """End a trial if one of its runs failed. A false claim also stops the loop."""
        failure = next((run for run in runs if run.reason), None)
        if failure is None:
            return False
        is_claim = failure.reason == "claim"
        stop = {"stop": f"trial {trial.number}: {failure.detail}"} if is_claim else {}
        self.writer.judge(trial, "crash", failure.reason, **stop)
        return True

    def _rebase(self, trial: Trial) -> Trial | None:
        """The trial on the current incumbent, if its own was replaced; None ends the trial."""
        state, path = self.writer.state, self.places.path(MUTABLE)
        text = self._rebased_text(trial, state.incumbent)
        if text is None or text == self.runs.text(state.incumbent):
            self.writer.judge(trial, "discard", "superseded by an earlier keep")
            return None
        message = f"{trial.number}: {trial.description}"
        commit = self.branch.commit_candidate(state.incumbent, path, text, message, trial.at)
        state = self.writer.append(
            "rebased", number=trial.number, base=state.incumbent, commit=commit
        )
        self.branch.mark(trial.number, commit)
        return state.trials[trial.number]


def _check_incumbent(runs: Iterable[RunResult]) -> None:
    """Raise a RunError if the incumbent, which ran before, fails now."""
    failure = next((run for run in runs if run.reason), None)
    if failure is not None:
        raise RunError(f"the incumbent no longer runs ({failure.reason}): {failure.detail}")
