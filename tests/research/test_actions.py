"""The actions of a person, an agent and an MCP client on a campaign, and their messages."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import pytest
from helpers.campaigns import SETTINGS, TRAIN, Arithmetic, begin, machine, repository
from helpers.command_line import WITHOUT_TORCH, lowbit
from helpers.command_line import ended as finished
from matplotlib.figure import Figure

from lowbit.core.errors import RunError, UserError
from lowbit.core.paired_tests import Difference
from lowbit.research import actions
from lowbit.research.campaign.edits import change
from lowbit.research.campaign.git_branch import git
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.settings import CampaignSettings, Places
from lowbit.research.campaign.state import CampaignState, rows
from lowbit.research.candidate.sealed_run import SealedJob
from lowbit.research.final_evaluation import end
from lowbit.research.mcp_server import server
from lowbit.research.proposers import proposer
from lowbit.research.proposers.base import Proposal
from lowbit.research.proposers.view import view
from lowbit.research.report import page, progress_chart
from lowbit.research.report.findings import (
    FinalEvaluation,
    ablations,
    final_evaluation,
    gain_over_campaign,
    mismatches,
)
from lowbit.research.report.wording import result_sentences
from lowbit.research.session import Campaign, is_running


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "home").mkdir()
    places = begin(repository(tmp_path / "home"))
    machine(places)
    return places


def campaign(places: Places, runner: Any = None) -> Campaign:
    return Campaign.at(str(places.folder), places.tag, runner=lambda *_: runner or Arithmetic())


def edit(places: Places, name: str, value: Any) -> None:
    path = places.tree / "train.py"
    path.write_text(change(path.read_text(), name, value))


# --- an agent that knows the convention -----------------------------------------------------------


def test_an_agent_edits_and_calls_trial(places: Places) -> None:
    edit(places, "LR", 1e-3)
    judged, state = actions.trial(campaign(places), "a larger rate")
    assert (judged.status, judged.description, judged.by) == ("keep", "a larger rate", "agent")
    assert "LR = 0.001" in (places.tree / "train.py").read_text()
    edit(places, "GROUP", 256)
    judged, state = actions.trial(campaign(places), "larger groups")
    assert judged.status == "discard"
    assert "GROUP = 128" in (places.tree / "train.py").read_text(), "rolled back"
    assert len(state.baseline()) == len(SETTINGS.seeds), "the first program was run first"


def test_an_agent_may_commit_for_itself(places: Places) -> None:
    tree = places.branch.worktree
    edit(places, "LR", 1e-3)
    git(tree, "commit", "--quiet", "--all", "-m", "my own words")
    judged, state = actions.trial(campaign(places), "")
    assert (judged.status, judged.description) == ("keep", "my own words")
    assert places.branch.head() == state.incumbent == judged.commit


def test_only_train_py_may_be_edited(places: Places) -> None:
    (places.tree / "prepare.py").write_text("# mine now\n")
    edit(places, "LR", 1e-3)
    with pytest.raises(UserError, match=r"prepare\.py: read-only"):
        actions.trial(campaign(places), "helpful")
    actions.rollback(campaign(places))
    assert (places.tree / "prepare.py").read_text() == "# fixed\n"
    (places.tree / "helper.py").write_text("x = 1\n")
    edit(places, "LR", 1e-3)
    with pytest.raises(UserError, match=r"helper\.py: not part of a trial"):
        actions.trial(campaign(places), "helpful")
    (places.tree / "helper.py").unlink()
    git(places.branch.worktree, "commit", "--quiet", "--all", "-m", "x")
    (places.tree / "prepare.py").write_text("# mine now\n")
    git(places.branch.worktree, "commit", "--quiet", "--all", "-m", "hidden in a commit")
    with pytest.raises(UserError, match="read-only"):
        actions.trial(campaign(places), "helpful")
    assert not Ledger(places.ledger).of("proposed")


def test_a_trial_needs_a_change(places: Places) -> None:
    with pytest.raises(UserError, match="needs a change"):
        actions.trial(campaign(places), "nothing")


def test_an_untried_edit_is_not_deleted(places: Places) -> None:
    edit(places, "LR", 1e-3)
    with pytest.raises(UserError, match="an edit that was not tried"):
        actions.run(campaign(places), "random", 1)
    assert "LR = 0.001" in (places.tree / "train.py").read_text()
    assert "the best program so far" in actions.rollback(campaign(places))
    assert (places.tree / "train.py").read_text() == TRAIN
    assert actions.run(campaign(places), "random", 1) == "all trials done"


def test_an_agents_edit_survives_a_kill_within_its_trial(places: Places) -> None:
    class Killed(BaseException):
        pass

    class Dying(Arithmetic):
        def __call__(self, job: SealedJob) -> Any:
            if self.early or "LR = 0.001" in job.text:
                raise Killed
            return super().__call__(job)

    edit(places, "LR", 1e-3)
    for Dying.early in (True, False):
        with pytest.raises(Killed):
            actions.trial(campaign(places, Dying()), "a larger rate")
        assert "LR = 0.001" in (places.tree / "train.py").read_text()
        if Dying.early:
            with pytest.raises(UserError, match="an edit that was not tried"):
                actions.resume(campaign(places))
    shutil.rmtree(places.branch.worktree)
    assert "has been judged" in actions.resume(campaign(places))
    state = campaign(places).state()
    assert [(t.status, t.description) for t in state.judged_trials] == [("keep", "a larger rate")]
    assert "nothing to resume" in actions.resume(campaign(places))


def test_files_that_running_train_py_leaves_do_no_harm(places: Places) -> None:
    edit(places, "LR", 1e-3)
    (places.tree / "__pycache__").mkdir()
    (places.tree / "__pycache__" / "train.pyc").write_bytes(b"x")
    assert actions.trial(campaign(places), "a larger rate")[0].status == "keep"
    (places.tree / "helper.py").write_text("x = 1")
    actions.rollback(campaign(places))
    assert not (places.tree / "helper.py").exists()
    assert (places.tree / "results.tsv").exists()


def test_a_killed_trial_is_continued_and_not_started_again(places: Places) -> None:
    class Killed(BaseException):
        pass

    class Dying(Arithmetic):
        def __call__(self, job: SealedJob) -> Any:
            if "LR = 0.001" in job.text:
                raise Killed
            return super().__call__(job)

    edit(places, "LR", 1e-3)
    with pytest.raises(Killed):
        actions.trial(campaign(places, Dying()), "a larger rate")
    judged, state = actions.trial(campaign(places), "the same again")
    assert (judged.number, judged.status, len(state.trials)) == (1, "keep", 1)


@pytest.mark.parametrize("kind", ["judged", "undone"])
def test_a_campaign_killed_before_the_branch_moved_continues(places: Places, kind: str) -> None:
    edit(places, "LR", 1e-3)
    actions.trial(campaign(places), "a larger rate")
    actions.run(campaign(places), "random", 2)
    state = campaign(places).state()
    # As a kill leaves it: the ledger is ahead of the branch.
    places.branch.restore(state.base)
    if kind == "undone":
        ledger = Ledger(places.ledger)
        places.branch.restore(state.trials[1].commit)
        ledger.append("undone", number=state.keeps[-1], incumbent=state.base)
    assert actions.resume(campaign(places)) == "all trials done"
    assert places.branch.head() == campaign(places).state().incumbent


# --- what a person does ---------------------------------------------------------------------------


def test_a_keep_can_be_undone_and_its_commit_stays(places: Places) -> None:
    edit(places, "LR", 1e-3)
    judged, _ = actions.trial(campaign(places), "a larger rate")
    message = actions.rollback(campaign(places), last=True)
    assert places.branch.ref(1) in message
    state = campaign(places).state()
    assert state.incumbent == state.base
    assert (places.tree / "train.py").read_text() == TRAIN
    assert git(places.branch.repository, "rev-parse", places.branch.ref(1)) == judged.commit
    with pytest.raises(UserError, match="no change has been kept"):
        actions.rollback(campaign(places), last=True)


def test_resume_uses_the_options_of_the_last_run(places: Places) -> None:
    actions.run(campaign(places), "random", 3, 2, 5)
    ledger = Ledger(places.ledger)
    cut = next(e.number for e in ledger.events if e.kind == "judged")
    lines = places.ledger.read_bytes().splitlines(keepends=True)
    places.ledger.write_bytes(b"".join(lines[:cut]))
    assert actions.resume(campaign(places)) == "all trials done"
    state = campaign(places).state()
    assert (len(state.judged_trials), state.stint) == (
        3, {"proposer": "random", "trials": 3, "jobs": 2, "seed": 5})  # fmt: skip


def _hold(path: str, locked: Any, release: Any) -> None:
    from filelock import FileLock

    with FileLock(path):
        locked.set()
        release.wait(60)


def test_two_processes_never_run_a_campaign_at_once(places: Places) -> None:
    context = multiprocessing.get_context("spawn")
    locked, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(places.lock), locked, release))
    other.start()
    assert locked.wait(60)
    assert is_running(places)
    with pytest.raises(RunError, match="another process"):
        actions.run(campaign(places), "random", 1)
    release.set()
    other.join()
    assert not is_running(places)


def test_text_that_was_changed_is_noticed(places: Places) -> None:
    body = {"rows": 1, "sha256": "0" * 64}
    places.inputs.mkdir()
    (places.inputs / "data.npy").write_bytes(b"other")
    events = [json.loads(line) for line in places.ledger.read_text().splitlines()]
    places.ledger.unlink()
    event = events[0]["body"] | {"texts": {"data.npy": body}}
    Ledger(places.ledger, lambda: 1.0).append("begun", **event)
    with pytest.raises(RunError, match="differs from the file that the campaign began with"):
        actions.run(campaign(places), "random", 1)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["status", "FOLDER", "--tag", "onne"], "Did you mean 'one'"),
        (["run", "FOLDER", "--proposer", "radnom"], "Did you mean 'random'"),
        (["run", "FOLDER", "--proposer", "command:"], "needs a command line"),
        (["run", "FOLDER", "--proposer", "openai:localhost"], "needs a URL"),
        (["status", "."], "has no program.md"),
        (["init", "FOLDER", "--model", "nowhere at all"], "no model"),
        (["init", "FOLDER", "--tag", "../up", "--model", "x"], "letters, digits"),
        (["init", "FOLDER", "--tag", "one", "--model", "x"], "exists already"),
        (["init", "FOLDER", "--alpha", "2"], "between 0 and 1"),
        (["init", "FOLDER", "--budget", "inf", "--model", "x"], "above zero and finite"),
        (["init", "FOLDER", "--tag", "v1..2", "--model", "x"], "git rejects the branch"),
    ],
)
def test_a_mistake_gives_one_clear_sentence(
    places: Places, tmp_path: Path, words: list[str], complaint: str
) -> None:
    words = [str(places.folder) if word == "FOLDER" else word for word in words]
    if words[-1] == ".":
        words[-1] = str(tmp_path)
    command = lowbit("research", *words)
    assert command.code == 2
    assert complaint in command.error_line


def test_a_folder_outside_git_or_uncommitted_says_what_to_do(tmp_path: Path) -> None:
    for name in ("program.md", "prepare.py", "train.py"):
        (tmp_path / name).write_text("x = 1\n")
    command = lowbit("research", "init", tmp_path, "--model", "x")
    assert "git init" in command.error_line
    git(tmp_path, "init", "--quiet")
    assert "must be committed" in lowbit("research", "init", tmp_path, "--model", "x").error_line


def test_status_fits_eighty_columns(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    actions.run(campaign(places), "random", 2)
    command = lowbit("research", "status", places.folder)
    assert command.code == 0, command.err
    for word in ("best so far", "noise", "alpha", "machine time", "isolation", "edit here"):
        assert word in command.out
    # a path is longer than any terminal, and must stay one word to be copied
    assert max(len(line) for line in command.out.splitlines()) <= 80


# --- the ending and the page ----------------------------------------------------------------------


@pytest.fixture
def ended(places: Places) -> Any:
    loop = machine(places)
    for name, value in (("LR", 1e-3), ("WARMUP_SHAPE", "cosine"), ("LR", 5e-4)):
        text = change(loop.runs.text(loop.state.incumbent), name, value)
        loop.open_trial(Proposal(text, f"{name} {value}", (name, value)), "listed")
        loop.baseline()
        loop.judge_all(loop.state.open_trials, 1)
    end(loop)
    return loop


def test_the_final_evaluation_uses_seeds_that_decided_nothing(ended: Any) -> None:
    state = ended.state
    final = final_evaluation(state)
    assert final is not None
    assert final.fresh is not None
    assert final.fresh.seeds == len(SETTINGS.fresh)
    assert not set(SETTINGS.fresh) & {
        seed for _, role, seed in state.runs if role not in ("fresh", "replay")
    }
    assert final.fresh.estimate == pytest.approx(0.33, abs=0.02)
    assert final.shrinkage is not None
    assert abs(final.shrinkage) < 0.1
    assert final.sealed_perplexity is not None
    assert final.sealed_perplexity[0] < final.sealed_perplexity[1]


def test_each_keep_is_removed_alone(ended: Any) -> None:
    losses = {trial.number: gain for trial, gain in ablations(ended.state)}
    assert losses[1] is not None
    assert losses[2] is not None
    assert losses[1].estimate == pytest.approx(0.3, abs=0.02)
    assert losses[2].estimate == pytest.approx(0.03, abs=0.01)
    for (commit, role, seed), _ in ended.state.runs.items():
        if commit in ended.state.ablations.values():
            assert (role, seed in SETTINGS.fresh) == ("replay", True), "seeds that decided nothing"


def test_the_final_evaluation_refuses_to_start_too_early(places: Places) -> None:
    actions.run(campaign(places), "random", 2)
    ledger = Ledger(places.ledger, lambda: 9_000.0)
    ledger.append("stint", proposer="random", trials=9, jobs=1, seed=0)
    with pytest.raises(UserError, match="2 of 9 trials are judged, and none is accepted"):
        actions.report(campaign(places), ending=True)
    assert "sealed" not in [event.kind for event in Ledger(places.ledger).events]
    begin(places.folder, replace(SETTINGS, tag="two"))
    command = lowbit("research", "report", places.folder, "--ending")
    assert (command.code, "choose one with --tag" in command.error_line) == (2, True), (
        "the newest is a guess"
    )
    actions.report(campaign(places), ending=True, early=True)
    assert campaign(places).state().ending is not None


def test_a_bad_minute_of_the_machine_does_not_close_a_campaign(places: Places) -> None:
    class Slow(Arithmetic):
        def __call__(self, job: SealedJob) -> Any:
            final = super().__call__(job)
            late = job.key[1] == "fresh" and job.key[2] == SETTINGS.fresh[1]
            return replace(final, reason="timeout", scores={}) if late else final

    edit(places, "LR", 1e-3)
    actions.trial(campaign(places), "a larger rate")
    with pytest.raises(RunError, match=r"the best program failed on fresh seed 19 \(timeout\)"):
        end(machine(places, Slow()))
    again = machine(places)
    assert again.state.ending is None
    end(again)
    final = final_evaluation(again.state)
    assert final is not None
    assert final.sealed is not None
    assert again.state.ending is not None
    assert again.state.ending["facts"]["python"]


def test_a_gain_that_is_not_replicated_is_reported_as_such() -> None:
    def sentences(claimed: float, fresh: float, se: float) -> str:
        gains = [Difference(x, se, 4, 5, 10) for x in (claimed, fresh)]
        state = SimpleNamespace(keeps=[1])
        final = FinalEvaluation(*gains, gains[1], (90.0, 100.0), (6.4, 6.5))
        return " ".join(result_sentences(state, final))  # type: ignore[arg-type]

    assert "The gain is replicated; it is 50 % smaller." in sentences(0.2, 0.1, 0.01)
    assert "The gain is replicated; it is no smaller." in sentences(0.1, 0.2, 0.01)
    assert "The gain is not replicated: its interval includes zero." in sentences(0.2, 0.01, 0.01)
    assert "The gain is not replicated: fresh seeds show none." in sentences(0.2, -0.04, 0.01)
    assert "It is not significant: the interval includes zero." in sentences(0.2, 0.01, 0.01)
    assert "perplexity 90.000 at 6.400 bits a weight" in sentences(0.2, 0.1, 0.01)


def test_a_clone_gives_the_same_report(ended: Any, places: Places, tmp_path: Path) -> None:
    """Trials lie under refs that no ordinary clone has: a bundle of them is beside the ledger."""
    page.write(places, ended.state, [], "lowbit")
    original = (places.results / "report.html").read_text()
    git(places.branch.repository, "add", "studies")
    git(places.branch.repository, "commit", "--quiet", "-m", "results")
    git(tmp_path, "clone", "--quiet", str(places.branch.repository), "clone")
    there = Campaign.at(str(tmp_path / "clone" / "studies" / "ternary"), "one")
    assert there.places.results / "changes.bundle" in actions.report(there)
    copy = (there.places.results / "report.html").read_text()
    cut = [text[text.index("<h2>") :] for text in (original, copy)]
    assert cut[0] == cut[1]
    git(there.places.branch.repository, "fsck", "--connectivity-only")


def test_a_campaign_continues_from_a_clone(places: Places, tmp_path: Path) -> None:
    edit(places, "LR", 1e-3)
    actions.trial(campaign(places), "a larger rate")
    actions.report(campaign(places))
    git(places.branch.repository, "add", "studies")
    git(places.branch.repository, "commit", "--quiet", "-m", "results so far")
    git(tmp_path, "clone", "--quiet", str(places.branch.repository), "clone")
    there = Places(tmp_path / "clone" / "studies" / "ternary", "one")
    shutil.rmtree(places.branch.repository)
    assert actions.run(campaign(there), "random", 3) == "all trials done"
    state = campaign(there).state()
    assert [trial.number for trial in state.judged_trials] == [1, 2, 3]
    assert state.trials[1].status == "keep"
    assert "LR = 0.001" in (there.tree / "train.py").read_text()


def test_far_worse_trials_do_not_compress_the_chart() -> None:
    points = [(0, 5.0, "keep"), (1, 7.0, "discard"), (2, 4.9, "keep"), (3, None, "crash")]
    lines = progress_chart.data({"one": (points, [(0, 5.1), (2, 5.0)]), "two": (points, [])})
    figure = Figure()
    ax = figure.add_subplot()
    progress_chart.draw(ax, lines)
    assert ax.get_ylim()[1] < 1.5 * math.exp(5.0), "a caret stands for it"
    for kind in ("png", "pdf"):
        assert progress_chart.image(lines, kind) == progress_chart.image(lines, kind)
    assert progress_chart.image(progress_chart.data({"none": ([], [])}), "png")


def test_the_sealed_text_is_opened_once_and_after_it_no_trial_is_accepted(ended: Any) -> None:
    kinds = [event.kind for event in ended.writer.ledger.events]
    assert kinds.count("sealed") == kinds.count("ended") == 1
    first = kinds.index("sealed")
    assert all(
        e.body["role"] == "fresh" for e in ended.writer.ledger.events[first:] if e.kind == "run"
    )
    count = len(kinds)
    end(ended)
    assert len(ended.writer.ledger.events) == count, "the second time nothing is opened"
    with pytest.raises(UserError, match="sealed text of this campaign has been opened"):
        ended.run(proposer("random"), 9)


def test_a_killed_final_evaluation_continues(places: Places) -> None:
    class Killed(BaseException):
        pass

    class Dying(Arithmetic):
        def __call__(self, job: SealedJob) -> Any:
            if job.key[1] == "fresh" and sum(j.key[1] == "fresh" for j in self.jobs) == 2:
                raise Killed
            return super().__call__(job)

    edit(places, "LR", 1e-3)
    actions.trial(campaign(places), "a larger rate")
    loop = machine(places, Dying())
    with pytest.raises(Killed):
        end(loop)
    again = machine(places)
    end(again)
    kinds = [event.kind for event in again.writer.ledger.events]
    assert kinds.count("sealed") == kinds.count("ended") == 1


def test_the_page_shows_all_five_priorities_and_escapes_what_candidates_wrote(
    ended: Any, places: Places
) -> None:
    two = begin(places.folder, replace(SETTINGS, tag="two"))
    other = machine(two)
    text = change(other.runs.text(other.state.base), "GROUP", 256)
    other.open_trial(Proposal(text, "<script>alert(1)</script>"), "agent")
    other.baseline()
    other.judge_all(other.state.open_trials, 1)
    for path in page.write(two, other.state, [("one", ended.state)], "lowbit"):
        assert path.is_file()
    html = (two.results / "report.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html
    for title in ("quantisation schedule", "learning rate", "quantisation details", "dead zone",
                  "distillation"):  # fmt: skip
        assert title in html
    assert "Not run yet" in html
    html = page.page(places, ended.state, [], b"", "lowbit")
    assert "Fresh seeds show +0.3" in html
    assert "opened once" in html
    log = (two.results / "cost_log.md").read_text()
    assert "\n1 trial.\n" in log
    assert "| total |" in log


def test_the_best_programs_of_two_campaigns_are_compared(ended: Any, places: Places) -> None:
    """On the sealed text and the same fresh seeds, so that nothing but the winners differs."""
    two = begin(places.folder, replace(SETTINGS, tag="two"))
    other = machine(two)
    text = change(other.runs.text(other.state.base), "WARMUP_SHAPE", "cosine")
    other.open_trial(Proposal(text, "cosine"), "agent")
    other.baseline()
    other.judge_all(other.state.open_trials, 1)
    assert gain_over_campaign(ended.state, other.state) is None, "its sealed text is still closed"
    end(other)
    apart = gain_over_campaign(ended.state, other.state)
    assert apart is not None
    assert apart.estimate == pytest.approx(0.3, abs=0.02)
    page.write(two, other.state, [("one", ended.state)], "lowbit")
    html = (two.results / "report.html").read_text()
    assert "gain of two over this campaign" in html
    back = gain_over_campaign(other.state, ended.state)
    assert back is not None
    assert f"{back.estimate:+.4f} [" in html
    assert "Cannot be compared with" not in html
    longer = replace(SETTINGS, tag="two", tokens=7_000)
    longer_state = replace_settings(other.state, longer)
    assert mismatches(ended.state, longer_state) == ["tokens of a confirmation (5,000, 7,000)"]
    assert gain_over_campaign(ended.state, longer_state) is None
    html = page.page(places, ended.state, [("two", longer_state)], b"", "lowbit")
    assert "Cannot be compared with two, because these differ: tokens of a confirmation" in html
    best = (two.results / "best-train.py").read_text()
    assert best == other.runs.text(other.state.incumbent)
    assert "cosine" in best


def replace_settings(state: CampaignState, settings: CampaignSettings) -> CampaignState:
    return replace(state, settings=settings)


def test_a_confirmation_trains_on_the_tokens_that_were_set(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    places = begin(repository(tmp_path / "home"), replace(SETTINGS, tokens=7_000))
    runner = Arithmetic()
    machine(places)
    edit(places, "LR", 1e-3)
    actions.trial(campaign(places, runner), "a larger rate")
    tokens = {(job.key[1], job.tokens) for job in runner.jobs}
    assert tokens == {("screen", 0), ("confirm", 7_000)}
    with pytest.raises(UserError, match="tokens must be 0 or more, not -1"):
        replace(SETTINGS, tokens=-1)


def test_a_trial_that_crashes_in_confirmation_has_no_score(places: Places) -> None:
    """One seed's score of it would be learnt from, and stand in the table."""

    class Breaking(Arithmetic):
        def __call__(self, job: SealedJob) -> Any:
            outcome = super().__call__(job)
            bad = job.key[1] == "confirm" and "LR = 0.001" in job.text
            return replace(outcome, reason="nan", scores={}) if bad else outcome

    edit(places, "LR", 1e-3)
    judged, state = actions.trial(campaign(places, Breaking()), "a larger rate")
    assert (judged.status, judged.reason) == ("crash", "nan")
    assert state.screening_run(judged.commit) is not None
    assert [row.val_ppl for row in rows(state)][1] is None
    assert view(places, state).history[0].loss is None


def test_random_search_does_not_propose_a_value_that_a_keep_replaced(places: Places) -> None:
    edit(places, "LR", 1e-3)
    actions.trial(campaign(places), "LR 1e-3")
    current = view(places, campaign(places).state())
    keep = replace(current.history[0], edit=("LR", 1e-3))
    with_keep = replace(current, history=(keep,))
    learned_edits = {
        proposal.edit
        for seed in range(200)
        if (proposal := proposer("random", seed).propose(with_keep))
    }
    assert ("LR", 2e-3) in learned_edits
    assert ("LR", 1e-4) not in learned_edits


def test_a_failed_ablation_is_not_reported_as_a_conflict(ended: Any, places: Places) -> None:
    state = ended.state
    commit = state.ablations[1]
    for seed in SETTINGS.fresh:
        key = (commit, "replay", seed)
        state.runs[key] = replace(state.runs[key], reason="crash")
    html = page.page(places, state, [], b"", "lowbit")
    assert "the program without it did not finish its runs" in html
    assert "a later kept change edits the same place" not in html


def test_a_report_needs_no_torch(ended: Any, places: Places) -> None:

    words = ["lowbit", "research", "report", str(places.folder)]
    code = f"{WITHOUT_TORCH}\nfrom lowbit.cli.main import main\nsys.argv = {words!r}\nmain()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    command = finished(process)
    assert command.code == 0, command.err
    assert "report.html" in command.out


# --- MCP ------------------------------------------------------------------------------------------


async def _tools(places: Places, calls: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    from mcp import Client

    mcp_server = server(str(places.folder), places.tag, runner=lambda *_: Arithmetic())
    async with Client(mcp_server) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"init", "run", "trial", "status", "rollback", "resume", "report"}
        return [await client.call_tool(name, body) for name, body in calls]


def test_the_same_commands_are_offered_as_mcp_tools(places: Places) -> None:
    import asyncio

    edit(places, "LR", 1e-3)
    answers = asyncio.run(
        _tools(
            places,
            [
                ("status", {}),
                ("trial", {"message": "a larger rate"}),
                ("trial", {"message": "nothing"}),
                ("run", {"proposer": "random", "trials": 2}),
                ("rollback", {}),
                ("report", {}),
            ],
        )
    )
    texts = [answer.content[0].text for answer in answers]
    assert "edit here" in texts[0]
    assert texts[1].startswith("trial 1: keep: better, gain +0.")
    assert answers[2].is_error
    assert "needs a change" in texts[2]
    assert texts[3] == "all trials done"
    assert "report.html" in texts[5]


# --- proposers that are somebody else's -----------------------------------------------------------


def test_a_command_edits_a_copy_and_only_train_py_is_read_back(places: Places) -> None:
    script = (
        "import pathlib as p; t = p.Path('train.py'); s = t.read_text(); "
        "assert 'program' in p.Path('program.md').read_text(); "
        "p.Path('prepare.py').write_text('mine'); p.Path('results.tsv').write_text('mine'); "
        "t.write_text(s.replace('LR = 0.0001', 'LR = 0.001').replace('LR = 1e-4', 'LR = 1e-3')); "
        "print('thinking'); print('a larger rate')"
    )
    line = f'command:{sys.executable} -c "{script}"'
    actions.run(campaign(places), line, 1)
    state = campaign(places).state()
    assert (state.trials[1].status, state.trials[1].description) == ("keep", "a larger rate")
    assert (places.tree / "prepare.py").read_text() == "# fixed\n"


def test_a_failed_proposer_command_is_recorded_with_its_output(
    places: Places, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    script = (
        "import pathlib as p, sys; o = p.Path(sys.argv[1]); t = p.Path('train.py'); "
        "print('no key') or o.touch() or sys.exit(3) if not o.exists() else "
        "t.write_text(t.read_text().replace('1e-4', '1e-3'))"
    )
    line = f'command:{sys.executable} -c "{script}" {once}'
    with mock.patch("lowbit.research.loop.PAUSES", (0.0,)):
        actions.run(campaign(places), line, 1)
    (failed,) = Ledger(places.ledger).of("unproposed")
    assert "no key" in failed.body["reason"]
    assert campaign(places).state().trials[1].status == "keep"


def test_a_dry_run_does_not_call_the_proposer(places: Places, tmp_path: Path) -> None:
    words = ("--proposer", f"command:touch {tmp_path / 'asked'}", "--dry-run", "--trials", 3)
    command = lowbit("research", "run", places.folder, *words)
    assert command.code == 0, command.err
    assert "isolation" in command.out
    assert not (tmp_path / "asked").exists()
    assert not Ledger(places.ledger).of("stint")


USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


class Endpoint(BaseHTTPRequestHandler):
    """An OpenAI-compatible server of one model, whose first answer has no program in it."""

    answers: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._say({"object": "list", "data": [{"id": "small", "object": "model", "created": 0,
                                               "owned_by": "us"}]})  # fmt: skip

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert "train.py" in request["messages"][1]["content"]
        message = {"role": "assistant", "content": self.answers.pop(0)}
        self._say({"id": "1", "object": "chat.completion", "created": 0, "model": "small",
                   "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                   "usage": USAGE})  # fmt: skip

    def _say(self, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def test_an_endpoint_is_asked_until_it_answers_with_a_program(places: Places) -> None:
    better = TRAIN.replace("1e-4", "1e-3")
    Endpoint.answers = ["I would raise the rate.", f"Raise the rate.\n```python\n{better}```\n"]
    with HTTPServer(("127.0.0.1", 0), Endpoint) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        with mock.patch.dict("os.environ", {"NO_PROXY": "127.0.0.1"}):
            actions.run(campaign(places), f"openai:http://127.0.0.1:{http.server_port}/v1", 1)
        http.shutdown()
    trial = campaign(places).state().trials[1]
    assert (trial.status, trial.description, trial.by) == ("keep", "Raise the rate.", "openai")
    assert trial.cost["prompt_tokens"] == 200
    assert "proposing: prompt_tokens" in page.cost_log(campaign(places).state())
