"""The ledger, the campaign's git branch, and the test that decides a keep."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.core.errors import RunError, UserError
from lowbit.research.campaign.git_branch import Branch, git
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.significance import (
    SLACK,
    Noise,
    alpha_share,
    alpha_spent,
    confirm,
    in_class,
    noise_of,
    on_front,
    worth_confirming,
)


def ledger(path: Path) -> Ledger:
    ticks = count(1000)
    return Ledger(path, lambda: float(next(ticks)))


def filled(path: Path, size: int = 6) -> Ledger:
    log = ledger(path)
    for i in range(size):
        log.append("trial", number=i, text="naïve ✓" * i)
    return log


# --- the ledger -----------------------------------------------------------------------------------


def test_what_is_written_is_replayed(tmp_path: Path) -> None:
    log = filled(tmp_path / "ledger.jsonl")
    again = ledger(tmp_path / "ledger.jsonl")
    assert again.events == log.events
    assert again.last("trial") == log.events[-1]
    assert again.last("other") is None
    more = again.append("judged", keep=True)
    assert ledger(tmp_path / "ledger.jsonl").events == [*log.events, more]


@pytest.mark.parametrize("lost", range(1, 120, 7))
def test_a_kill_while_writing_loses_at_most_the_line_it_wrote(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "ledger.jsonl"
    log = filled(path)
    content = path.read_bytes()
    last = len(content.splitlines(keepends=True)[-1])
    path.write_bytes(content[: -min(lost, last)])
    again = ledger(path)
    assert again.events == log.events[:-1]
    again.append("trial", number=99)
    assert [e.body["number"] for e in ledger(path).events] == [0, 1, 2, 3, 4, 99]


@pytest.mark.parametrize("how", ["changed", "removed", "doubled", "swapped", "torn inside"])
def test_a_ledger_that_was_tampered_with_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "ledger.jsonl"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    if how == "changed":
        body = json.loads(lines[2])
        body["body"]["number"] = 7
        lines[2] = (json.dumps(body, sort_keys=True, separators=(",", ":")) + "\n").encode()
    elif how == "removed":
        del lines[2]
    elif how == "doubled":
        lines.insert(2, lines[2])
    elif how == "swapped":
        lines[2], lines[3] = lines[3], lines[2]
    else:
        lines[2] = lines[2][:10] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunError, match="line"):
        ledger(path)


def test_nan_is_not_written(tmp_path: Path) -> None:
    log = filled(tmp_path / "ledger.jsonl", 2)
    with pytest.raises(ValueError, match="JSON"):
        log.append("scored", loss=float("nan"))
    assert len(ledger(tmp_path / "ledger.jsonl").events) == 2


# --- git ------------------------------------------------------------------------------------------


@pytest.fixture
def branch(tmp_path: Path) -> Branch:
    home = tmp_path / "home"
    home.mkdir()
    git(home, "init", "--quiet", "-b", "main")
    (home / "train.py").write_text("lr = 1\n")
    (home / "other.txt").write_text("committed\n")
    git(home, "add", ".")
    git(home, "commit", "--quiet", "-m", "start")
    (home / "other.txt").write_text("the person's uncommitted work\n")
    (home / "train.py").write_text("lr = 'being edited by the person'\n")
    return Branch(home, tmp_path / "tree", "try.1")


def trial(branch: Branch, number: int, text: str, base: str | None = None) -> str:
    """Commit of a candidate, made as the loop does it."""
    base = base or git(branch.repository, "rev-parse", "main")
    commit = branch.commit_candidate(base, "train.py", text, f"{number}", 1_000.0 + number)
    branch.mark(number, commit)
    return commit


def test_the_users_checkout_is_never_touched(branch: Branch) -> None:
    def status() -> str:
        return git(branch.repository, "status", "--porcelain=v2")

    before = status()
    branch.create("HEAD")
    first = trial(branch, 1, "lr = 2\n")
    second = trial(branch, 2, "lr = 3\n", first)
    branch.restore(second)
    assert branch.head() == second
    assert (branch.worktree / "train.py").read_text() == "lr = 3\n"
    assert (branch.repository / "other.txt").read_text() == "the person's uncommitted work\n"
    assert "person" in (branch.repository / "train.py").read_text()
    assert before == status()
    assert git(branch.repository, "rev-parse", "--abbrev-ref", "HEAD") == "main"


def test_a_candidate_stays_reachable_and_has_one_commit(branch: Branch) -> None:
    branch.create("HEAD")
    start = branch.head()
    commit = trial(branch, 1, "lr = 2\n")
    assert trial(branch, 1, "lr = 2\n") == commit
    assert branch.head() == start, "a candidate does not move the branch"
    assert git(branch.repository, "rev-parse", branch.ref(1)) == commit
    assert branch.show(commit, "train.py") == "lr = 2\n"
    assert branch.show(commit, "other.txt") == "committed\n"
    assert git(branch.repository, "diff", "--name-only", start, commit) == "train.py"


def test_a_missing_or_dirty_worktree_is_restored(branch: Branch) -> None:
    branch.create("HEAD")
    commit = trial(branch, 1, "lr = 2\n")
    branch.restore(commit)
    (branch.worktree / "train.py").write_text("half written")
    assert branch.changed_paths(commit) == ["train.py"]
    folder = Path(git(branch.worktree, "rev-parse", "--absolute-git-dir"))
    (folder / "index.lock").write_text("")
    branch.restore(commit)
    assert (branch.worktree / "train.py").read_text() == "lr = 2\n"
    branch.remove()
    branch.create(commit)
    assert branch.head() == commit
    git(branch.worktree, "checkout", "--quiet", "--detach")
    branch.restore(commit)
    assert git(branch.worktree, "rev-parse", "--abbrev-ref", "HEAD") == branch.name


def test_two_changes_of_different_lines_merge_and_of_the_same_do_not(branch: Branch) -> None:
    lines = [f"line {i}\n" for i in range(9)]
    base = "".join(lines)
    first, second = ("".join([*lines[:i], "new\n", *lines[i + 1 :]]) for i in (1, 7))
    both = branch.merge(base, first, second)
    assert both == "".join(["line 0\n", "new\n", *lines[2:7], "new\n", "line 8\n"])
    assert branch.merge(base, first, base.replace("line 1", "other")) is None


def test_a_branch_is_new_and_has_a_name(branch: Branch) -> None:
    branch.check()
    branch.create("HEAD")
    with pytest.raises(UserError, match="exists already"):
        branch.check()
    for tag in ("../up", "a b", "", "x.lock", "-f"):
        with pytest.raises(UserError, match="letters"):
            Branch(branch.repository, branch.worktree / "x", tag).check()


# --- judgement ------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.2), st.integers(1, 400), st.integers(1, 100))
def test_a_campaign_never_spends_more_than_its_alpha(alpha: float, long: int, planned: int) -> None:
    assert alpha_spent(alpha, long, planned) < alpha
    assert alpha_share(alpha, long, planned) >= alpha_share(alpha, long + 1, planned) > 0
    if long <= planned:
        assert alpha_share(alpha, long, planned) > alpha / (2 * planned), (
            "the test has power up to the last planned confirmation"
        )


def scores(rng: np.random.Generator, seeds: int, gain: float, spread: float) -> tuple:
    """(candidate, incumbent) over 20 articles, paired by article and seed."""
    counts = np.full((seeds, 20), 1000.0)
    article = rng.normal(3.5, 0.3, (1, 20))
    theirs = article + rng.normal(0, spread, (seeds, 1)) + rng.normal(0, 0.01, (seeds, 20))
    ours = article - gain + rng.normal(0, spread, (seeds, 1)) + rng.normal(0, 0.01, (seeds, 20))
    return (ours * counts, counts), (theirs * counts, counts)


def test_edits_without_effect_are_kept_no_more_often_than_alpha() -> None:
    rng, alpha, campaigns, keeps = np.random.default_rng(0), 0.05, 60, 0
    for _ in range(campaigns):
        verdicts = (
            confirm(*scores(rng, 4, 0.0, 0.02), alpha_share(alpha, k, 5)) for k in range(1, 6)
        )
        keeps += any(verdict.keep for verdict in verdicts)
    # Alpha is 5 %: three keeps are expected, and more than eight have a probability below 1 %.
    assert keeps <= 8


def test_a_real_gain_is_kept_and_a_loss_is_not() -> None:
    rng = np.random.default_rng(1)
    better = confirm(*scores(rng, 4, 0.2, 0.01), alpha_share(0.05, 3, 20))
    assert better.keep
    assert better.gain is not None
    assert better.gain.estimate == pytest.approx(0.2, abs=0.05)
    worse = confirm(*scores(rng, 4, -0.2, 0.01), alpha_share(0.05, 3, 20))
    assert (worse.keep, worse.reason) == (False, "not better")
    single = confirm(*scores(rng, 1, 0.5, 0.0), 0.05)
    assert (single.keep, single.reason) == (False, "too few seeds")


@given(st.floats(0.001, 0.1), st.floats(-0.3, 0.3))
@settings(max_examples=40)
def test_screening_passes_a_gain_that_noise_could_hide(sd: float, gain: float) -> None:
    noise = Noise(sd, 3)
    assert worth_confirming(3.0 - gain, 3.0, noise) == (-gain < SLACK * np.sqrt(2) * sd)


def test_noise_is_the_spread_over_seeds() -> None:
    assert noise_of([1.0, 3.0]).sd == pytest.approx(np.sqrt(2))
    with pytest.raises(ValueError, match="two seeds"):
        noise_of([1.0])


def test_bit_classes_have_a_tolerance_and_fronts_use_bits_and_loss() -> None:
    assert in_class(1.73, 1.725)
    assert not in_class(2.1, 1.725)
    points = [(1.7, 3.5), (2.1, 3.4)]
    assert on_front(1.9, 3.45, points)
    assert not on_front(2.2, 3.4, points)
    assert not on_front(1.7, 3.5, points)
