"""The research loop on runs that are computed by a formula: its decisions, and kills."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest
from helpers.campaigns import SETTINGS, TRAIN, Arithmetic, begin, machine, quality, repository

from lowbit.core.errors import RunError, UserError
from lowbit.research.campaign import git_branch as branching
from lowbit.research.campaign import ledger as ledgers
from lowbit.research.campaign.edits import change
from lowbit.research.campaign.git_branch import git
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.replay import replay
from lowbit.research.campaign.results_tsv import from_tsv
from lowbit.research.campaign.run_result import RunScores
from lowbit.research.campaign.settings import Places
from lowbit.research.campaign.significance import noise_of
from lowbit.research.campaign.state import BY_THE_CLOCK, CampaignState
from lowbit.research.candidate.sealed_run import SealedJob
from lowbit.research.loop import Loop
from lowbit.research.proposers.base import Proposal
from lowbit.research.proposers.view import View

EDITS = [
    ("LR", 1e-3),  # a true gain of 0.3
    ("GROUP", 256),  # a true loss
    ("BIAS", True),  # nothing at all
    ("WARMUP_SHAPE", "cosine"),  # a true gain of 0.03
    ("SCALE", "lsq"),  # nothing at all
]


@dataclass
class Listed:
    """Proposes the edits of a list, by the number of the trial."""

    edits: list[tuple[str, Any]]
    name: str = "listed"

    def propose(self, view: View) -> Proposal | None:
        if view.trial > len(self.edits):
            return None
        name, value = self.edits[view.trial - 1]
        return Proposal(change(view.text, name, value), f"{name} {value}", (name, value))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "home").mkdir()
    return begin(repository(tmp_path / "home"))


def run_loop(
    places: Places, edits: list[tuple[str, Any]] = EDITS, jobs: int = 1, **more: Any
) -> Loop:
    loop = machine(places, **more)
    loop.run(Listed(edits), len(edits), jobs)
    return loop


def outcome(state: CampaignState) -> list[tuple[Any, ...]]:
    """What a campaign decided, without clocks and hashes."""
    return [
        (t.number, t.edit, t.status, t.reason, t.gain, t.p, t.alpha, t.confirmation)
        for t in state.trials.values()
    ]


# --- decisions ------------------------------------------------------------------------------------


def test_true_gains_are_kept_and_useless_changes_are_not(places: Places) -> None:
    state = run_loop(places).state
    assert [t.status for t in state.judged_trials] == [
        "keep",
        "discard",
        "discard",
        "keep",
        "discard",
    ]
    assert state.trials[1].gain == pytest.approx(0.3, abs=0.01)
    assert state.trials[4].gain == pytest.approx(0.03, abs=0.01)
    for trial in state.judged_trials:
        assert trial.status != "keep" or (trial.p or 0) < (trial.alpha or 0)


def test_the_first_runs_are_the_program_as_it_is_on_every_seed(places: Places) -> None:
    runner = Arithmetic()
    loop = run_loop(places, runner=runner)
    first = runner.jobs[: len(SETTINGS.seeds)]
    assert [job.key for job in first] == [(loop.state.base, "screen", s) for s in SETTINGS.seeds]
    assert all(job.text == TRAIN for job in first)
    noise = loop.state.noise()
    assert noise is not None
    assert 0 < noise.sd < 0.3


def test_screening_has_the_clock_and_confirming_a_number_of_tokens(places: Places) -> None:
    runner = Arithmetic()
    loop = run_loop(places, runner=runner)
    for job in runner.jobs:
        assert job.tokens == (0 if job.key[1] in BY_THE_CLOCK else loop.state.tokens())
        assert job.limit > SETTINGS.budget
    assert loop.state.tokens() == 5_000


def after(first: int, pace: float) -> Callable[[SealedJob], float]:
    """A machine whose speed changes after so many runs, and stays."""
    runs = count(1)
    return lambda job: 1.0 if next(runs) <= first else pace


@pytest.mark.parametrize("pace", [2.0, 0.5])
def test_the_incumbent_is_screened_again_after_the_machine_changed(
    places: Places, pace: float
) -> None:
    """Nothing, then a true gain: on a faster machine nothing would look like a gain, and on a
    slower one the gain like a loss."""
    runner = Arithmetic(pace=after(len(SETTINGS.seeds), pace))
    loop = run_loop(places, [("BIAS", True), ("WARMUP_SHAPE", "cosine")], runner=runner)
    state = loop.state
    reruns = [job.key for job in runner.jobs if job.key[1] == "again"]
    assert reruns == [(state.base, "again", SETTINGS.seeds[0])], "once, and not for every trial"
    assert state.trials[2].status == "keep"
    for trial in state.judged_trials:
        deserved = quality(TRAIN) - quality(loop.runs.text(trial.commit))
        assert state.screening_gain(trial) == pytest.approx(deserved, abs=0.01)
    first = state.screening_run(state.base)
    assert first is not None
    assert first.tokens == 5_000, "the first screening stays what it was"
    assert all(ran.tokens == 5_000 for ran in state.baseline())


def test_the_incumbent_is_not_screened_again_for_a_machine_that_is_as_it_was(
    places: Places,
) -> None:
    shaken = random.Random(0)
    runner = Arithmetic(pace=lambda job: shaken.uniform(0.95, 1.05))
    run_loop(places, runner=runner)
    assert not [job for job in runner.jobs if job.key[1] == "again"]


def test_parallel_runs_do_not_measure_the_speed_of_the_machine(places: Places) -> None:
    runner = Arithmetic(pace=after(len(SETTINGS.seeds), 2.0))
    run_loop(places, jobs=2, runner=runner)
    assert not [job for job in runner.jobs if job.key[1] == "again"]


def test_repeated_runs_count_in_the_machine_time(places: Places) -> None:
    paces = iter([1.0] * len(SETTINGS.seeds) + [2.0, 2.0, 0.5, 0.5])
    runner = Arithmetic(pace=lambda job: next(paces))
    loop = run_loop(places, [("GROUP", 256)], runner=runner)
    loop.run(Listed([("GROUP", 256), ("LR", 1e-5)]), 2)
    whole = [12.0 + 2 / pace for pace in [1.0] * len(SETTINGS.seeds) + [2.0, 2.0, 0.5, 0.5]]
    assert loop.state.seconds == pytest.approx(sum(whole))
    assert len(loop.state.all_runs) == len(whole)


def test_the_branch_holds_the_keeps_and_every_trial_has_a_ref(places: Places) -> None:
    loop = run_loop(places)
    home, state = places.branch.repository, loop.state
    subjects = git(home, "log", "--format=%s", f"{state.base}..{places.branch.name}").splitlines()
    assert subjects == ["4: WARMUP_SHAPE cosine", "1: LR 0.001"]
    for number, trial in state.trials.items():
        assert git(home, "rev-parse", places.branch.ref(number)) == trial.commit
        path = places.path("train.py")
        assert git(home, "diff", "--name-only", trial.base, trial.commit) == path
    text = (places.tree / "train.py").read_text()
    assert "'cosine'" in text
    assert "LR = 0.001" in text


def test_the_persons_work_and_branch_are_never_touched(places: Places) -> None:
    home = places.branch.repository

    def status() -> list[str]:
        lines = git(home, "status", "--porcelain=v2", "--branch").splitlines()
        return [line for line in lines if "results/" not in line]

    before = status()
    run_loop(places)
    assert status() == before
    assert (home / "other.txt").read_text() == "the person's uncommitted work\n"


def test_the_table_is_a_view_that_can_be_rebuilt(places: Places) -> None:
    loop = run_loop(places)
    for where in (places.results, places.tree):
        table = where / "results.tsv"
        whole = table.read_text()
        assert [row.status for row in from_tsv(whole)] == [
            "keep", "keep", "discard", "discard", "keep", "discard"]  # fmt: skip
        table.write_text("written by a candidate")
        loop.settle()
        assert table.read_text() == whole


def test_a_change_of_only_a_seed_is_not_run(places: Places) -> None:
    runner = Arithmetic()
    loop = machine(places, runner)
    loop.baseline()
    loop.open_trial(Proposal(f"import torch\ntorch.manual_seed(7)\n{TRAIN}", "lucky seed"), "agent")
    loop.open_trial(Proposal(f"{TRAIN}# a comment\n", "nothing"), "agent")
    loop.open_trial(Proposal("def (", "does not parse"), "agent")
    count = len(runner.jobs)
    loop.judge_all(loop.state.open_trials, 1)
    assert [t.status for t in loop.state.judged_trials] == ["discard", "discard", "crash"]
    assert loop.state.trials[1].reason == "the edit changes nothing, or only a seed"
    assert "does not parse" in loop.state.trials[3].reason
    assert len(runner.jobs) == count


def test_a_crash_has_no_score_and_is_never_kept(places: Places) -> None:
    loop = run_loop(places, runner=Arithmetic(broken={"LR = 0.001": "timeout"}))
    trial = loop.state.trials[1]
    assert (trial.status, trial.reason) == ("crash", "timeout")
    row = from_tsv((places.results / "results.tsv").read_text())[1]
    assert (row.status, row.val_ppl, row.reason) == ("crash", None, "timeout")
    assert 1 not in loop.state.keeps


def test_a_program_that_fails_as_it_is_says_so(places: Places) -> None:
    with pytest.raises(RunError, match=r"unmodified program fails \(memory\)"):
        run_loop(places, runner=Arithmetic(broken={"LR": "memory"}))


def test_a_wrong_claim_stops_the_loop_until_a_person_has_looked(places: Places) -> None:
    loop = run_loop(places, runner=Arithmetic(broken={"LR = 0.001": "claim"}))
    state = loop.state
    assert state.stop_reason.startswith("trial 1: because of claim")
    assert len(state.judged_trials) == 1, "nothing is tried after it"
    last = loop.writer.ledger.events[-1]
    assert (last.kind, last.body["status"]) == ("judged", "crash"), "one line says both"
    with pytest.raises(UserError, match="--looked"):
        loop.run(Listed(EDITS), 5)
    loop.writer.append("looked", reason=state.stop_reason)
    loop.run(Listed(EDITS), 5)
    assert [t.status for t in loop.state.judged_trials][:2] == ["crash", "discard"]


def test_more_bits_are_kept_only_on_the_front(places: Places) -> None:
    """Group 32 costs 0.375 bits more here and changes no loss."""
    loop = run_loop(places, [("GROUP", 32)], runner=Arithmetic(noise=1e-9))
    trial = loop.state.trials[1]
    assert trial.status == "discard"
    lower = Arithmetic(noise=1e-9)
    loop = machine(places, lower)
    text = change(change(loop.runs.text(loop.state.incumbent), "GROUP", 32), "LR", 1e-3)
    loop.open_trial(Proposal(text, "heavier and much better"), "agent")
    loop.judge_all(loop.state.open_trials, 1)
    assert loop.state.trials[2].status == "keep", "no kept recipe is as good with as few"


def test_a_confirmation_without_gain_stops_early(places: Places) -> None:
    runner = Arithmetic(noise=0.2)
    loop = run_loop(places, [("BIAS", True), ("SCALE", "lsq"), ("SCALE", "absmax")], runner=runner)
    given_up = [t for t in loop.state.judged_trials if t.reason == "no better on 2 seeds"]
    for trial in given_up:
        own = [job for job in runner.jobs if job.key[:2] == (trial.commit, "confirm")]
        assert len(own) == 2
        assert trial.confirmation is not None, "its share of alpha is spent all the same"


def test_a_keep_without_isolation_is_marked(places: Places) -> None:
    class Open(Arithmetic):
        def __call__(self, job: Any) -> Any:
            return replace(super().__call__(job), sealed=False)

    assert run_loop(places, EDITS[:1], runner=Open()).state.trials[1].unsealed
    # and one with it is not
    assert (
        not run_loop(begin(places.folder, replace(SETTINGS, tag="two")), EDITS[:1])
        .state.trials[1]
        .unsealed
    )


@pytest.mark.parametrize("jobs", [2, 3, 8])
def test_trials_side_by_side_decide_the_same_whatever_finishes_first(
    places: Places, jobs: int
) -> None:
    class Late(Arithmetic):
        """Later jobs end first, as far as threads go."""

        def __call__(self, job: Any) -> Any:
            import time

            time.sleep(0.02 if "LR = 0.001" in job.text else 0.0)
            return super().__call__(job)

    first = run_loop(places, jobs=jobs, runner=Late()).state
    second = run_loop(begin(places.folder, replace(SETTINGS, tag="two")), jobs=jobs).state
    assert outcome(first) == outcome(second)
    assert [t.number for t in first.judged_trials if t.status == "keep"] == [1, 4]
    text = git(places.branch.repository, "show", f"{first.incumbent}:{places.path('train.py')}")
    assert "LR = 0.001" in text
    assert "'cosine'" in text, "what was proposed from the older incumbent is merged onto the newer"


def test_of_two_changes_of_the_same_line_the_later_is_superseded(places: Places) -> None:
    loop = run_loop(places, [("LR", 1e-3), ("LR", 2e-3)], jobs=2)
    assert [(t.status, t.reason) for t in loop.state.judged_trials] == [
        ("keep", "better"), ("discard", "superseded by an earlier keep")]  # fmt: skip


def test_a_proposer_with_nothing_left_ends_the_loop(places: Places) -> None:
    loop = machine(places)
    assert loop.run(Listed(EDITS[:2]), None) == "the proposer has nothing left to try"
    assert len(loop.state.judged_trials) == 2


def test_a_proposer_that_fails_for_a_while_is_called_again(places: Places) -> None:
    class Away(Listed):
        failed = 0

        def propose(self, view: View) -> Proposal | None:
            if self.failed < 3:
                self.failed += 1
                raise RunError("no answer")
            return super().propose(view)

    waited: list[float] = []
    loop = machine(places, wait=waited.append)
    loop.run(Away(EDITS[:1]), 1)
    assert waited == [10.0, 60.0, 300.0]
    assert loop.state.failures == 3
    assert len(loop.state.judged_trials) == 1


@pytest.mark.parametrize(
    "failure",
    [RunError("x"), OSError("x"), TypeError("null"), UnicodeDecodeError("u", b"", 0, 1, "")],
)
def test_a_proposer_that_never_answers_is_called_for_ever(
    places: Places, failure: Exception
) -> None:
    class Gone(Listed):
        def propose(self, view: View) -> Proposal | None:
            raise failure

    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        machine(places, wait=wait).run(Gone([]), 1)
    assert waited[3:] == [900.0] * 6


@pytest.mark.parametrize(
    ("text", "status"),
    [("x = 1\n" + "(" * 5_000 + "1" + ")" * 5_000, "crash"), ("X = {[1]: 2}\n" + TRAIN, "discard")],
)
def test_a_program_that_python_cannot_parse_ends_only_its_trial(
    places: Places, text: str, status: str
) -> None:
    loop = machine(places)
    loop.baseline()
    loop.open_trial(Proposal(text, "odd\0\ud800 words"), "agent")
    loop.judge_all(loop.state.open_trials, 1)
    assert loop.state.trials[1].status == status
    assert "odd" in loop.state.trials[1].description


def test_a_text_that_cannot_be_written_to_a_file_is_refused(places: Places) -> None:
    class Odd(Listed):
        answers: ClassVar[list[str]] = ["\ud800", "a\0b", TRAIN.replace("1e-4", "1e-3")]

        def propose(self, view: View) -> Proposal | None:
            return Proposal(self.answers.pop(0), "odd")

    loop = machine(places)
    loop.run(Odd([]), 1)
    assert loop.state.failures == 2
    assert loop.state.trials[1].status == "keep"


def test_a_failure_of_the_machine_does_not_count_against_the_program(places: Places) -> None:
    with pytest.raises(RunError, match="unmodified program fails"):
        run_loop(places, runner=Arithmetic(broken={"LR": "timeout"}))
    assert run_loop(places, EDITS[:1]).state.trials[1].status == "keep"


def test_one_failed_run_of_the_incumbent_does_not_end_the_loop(places: Places) -> None:
    """It has run before: what fails once in its confirmation is tried again, in the same call."""
    failed: list[Any] = []

    class Stumbling(Arithmetic):
        def __call__(self, job: Any) -> Any:
            outcome = super().__call__(job)
            if job.key[1] == "confirm" and "LR = 1e-4" in job.text and len(failed) < 2:
                failed.append(job.key)
                return replace(outcome, reason="timeout", scores={})
            return outcome

    trial = run_loop(places, EDITS[:1], runner=Stumbling()).state.trials[1]
    assert len(failed) == 2
    assert trial.status == "keep"


def test_a_first_program_that_fails_is_not_run_on_every_seed(places: Places) -> None:
    runner = Arithmetic(broken={"LR": "crash"})
    with pytest.raises(RunError, match="unmodified program fails"):
        run_loop(places, runner=runner)
    assert {job.key[2] for job in runner.jobs} == {SETTINGS.seeds[0]}


def test_the_noise_is_the_largest_of_all_kept_programs(places: Places) -> None:
    """A program that learns faster may scatter more than the one that the campaign began with."""
    state = run_loop(places, EDITS[:1]).state
    assert state.keeps == [1]
    first = noise_of([run.scores["screening"].loss for run in state.baseline()])
    for seed in SETTINGS.confirmation_seeds:
        wild = {"confirmation": RunScores((1_000.0 * (4 + seed),), (1_000,))}
        key = (state.incumbent, "confirm", seed)
        state.runs[key] = replace(state.runs[key], scores=wild)
    noise = state.noise()
    assert noise is not None
    assert noise.sd == pytest.approx(np.std(SETTINGS.confirmation_seeds, ddof=1))
    assert noise.sd > first.sd


def test_locks_of_a_killed_git_are_removed(places: Places) -> None:
    git_folder = places.branch.repository / ".git"
    run_loop(places, [])
    locks = [
        git_folder / "refs" / "heads" / f"{places.branch.name}.lock",
        git_folder / f"{places.branch.ref(1)}.lock",
    ]
    for lock in locks:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    persons = git_folder / "refs" / "heads" / "main.lock"
    persons.touch()
    assert run_loop(places, EDITS[:1]).state.trials[1].status == "keep"
    assert persons.exists(), "somebody else's lock is somebody else's"
    persons.unlink()


def test_other_bits_in_confirmation_are_no_keep(places: Places) -> None:
    class Heavier(Arithmetic):
        def __call__(self, job: Any) -> Any:
            outcome = super().__call__(job)
            light = job.key[1] == "screen" or "LR = 0.0001" in job.text or "1e-4" in job.text
            return outcome if light else replace(outcome, bits=9.0)

    trial = run_loop(places, EDITS[:1], runner=Heavier()).state.trials[1]
    assert (trial.status, trial.reason) == ("crash", "1.725 bits screened, 9 confirmed")


def test_no_change_is_confirmed_on_the_screening_seed(places: Places) -> None:
    loop = run_loop(places)
    seeds = {seed for _, role, seed in loop.state.runs if role == "confirm"}
    assert seeds == set(SETTINGS.confirmation_seeds)
    assert SETTINGS.seeds[0] not in seeds


def test_the_running_state_equals_the_replayed_state(places: Places) -> None:
    loop = run_loop(places)
    assert loop.state == replay(Ledger(places.ledger).events)


# --- kills and edits of the ledger ----------------------------------------------------------------


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal 9."""


@contextmanager
def killing(at: int) -> Iterator[list[int]]:
    """Dies at the n-th point of: before and after a git command, before, within and after a line
    of the ledger. What was half written stays."""
    points = [0]

    def point() -> bool:
        points[0] += 1
        return points[0] == at

    true_git, true_append = branching.git, Ledger.append

    def a_git(*words: Any, **more: Any) -> str:
        if point():
            raise Killed
        output = true_git(*words, **more)
        if point():
            raise Killed
        return output

    def an_append(self: Ledger, kind: str, **body: Any) -> Any:
        if point():
            raise Killed
        if point():
            with self.path.open("ab") as file:
                file.write(b'{"n": 7, "at": 1.0, "ki')
            raise Killed
        event = true_append(self, kind, **body)
        if point():
            raise Killed
        return event

    with mock.patch.object(branching, "git", a_git), mock.patch.object(Ledger, "append", an_append):
        yield points


def grown_faster(job: SealedJob) -> float:
    """Twice as fast since the first program was screened."""
    return 1.0 if job.key[1] == "screen" and job.text == TRAIN else 2.0


def undisturbed(folder: Path, pace: Any) -> tuple[list[tuple[Any, ...]], int]:
    places = begin(folder, replace(SETTINGS, tag="calm"))
    with killing(-1) as points:
        loop = run_loop(places, runner=Arithmetic(pace=pace))
    return outcome(loop.state), points[0]


@pytest.mark.parametrize("pace", [None, grown_faster])
def test_after_a_kill_anywhere_nothing_is_lost_or_done_twice(tmp_path: Path, pace: Any) -> None:
    (tmp_path / "home").mkdir()
    folder = repository(tmp_path / "home")
    calm, points = undisturbed(folder, pace)
    assert points > 150
    source = random.Random(0)
    for number in range(12 if pace is None else 6):
        places = begin(folder, replace(SETTINGS, tag=f"killed{number}"))
        while True:
            with killing(source.randrange(1, points)), suppress(Killed):
                loop = run_loop(places, runner=Arithmetic(pace=pace))
                break
        events = Ledger(places.ledger).events
        state = replay(events)
        assert state is not None
        assert outcome(state) == calm
        once = [str(e.body["number"]) for e in events if e.kind == "judged"]
        once += [f"{e.body['commit']} {e.body['role']} {e.body['seed']}" for e in events
                 if e.kind == "ran"]  # fmt: skip
        assert len(once) == len(set(once)), "nothing is done twice"
        assert loop.branch.head() == state.incumbent
        subjects = git(places.branch.repository, "log", "--format=%s", f"main..{loop.branch.name}")
        assert subjects.splitlines() == ["4: WARMUP_SHAPE cosine", "1: LR 0.001"]


def test_a_ledger_that_was_edited_is_refused(places: Places) -> None:
    run_loop(places, EDITS[:1])
    path = places.ledger
    path.write_bytes(path.read_bytes().replace(b'"keep"', b'"crash"', 1))
    with pytest.raises(RunError, match="does not follow"):
        machine(places)


def test_the_ledger_has_only_finite_numbers(places: Places) -> None:
    loop = run_loop(places)
    for event in loop.writer.ledger.events:
        assert "NaN" not in str(event.body)
    for run in loop.state.runs.values():
        assert all(math.isfinite(scores.loss) for scores in run.scores.values())
    assert ledgers.FIRST == "0" * 16
