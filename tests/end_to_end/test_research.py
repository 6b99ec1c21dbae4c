"""A campaign as a person and an agent live it: the real commands, real trials, real kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.campaigns import SETTINGS, begin, machine, repository
from helpers.command_line import lowbit

from lowbit.research.campaign.edits import change
from lowbit.research.campaign.git_branch import git
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.replay import replay
from lowbit.research.campaign.results_tsv import from_tsv
from lowbit.research.campaign.settings import Places
from lowbit.research.proposers import proposer

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "studies" / "ternary"
TESTS = Path(__file__).parents[1]


@pytest.mark.late
@pytest.mark.skipif(sys.platform != "linux", reason="what Linux can forbid")
def test_an_agent_that_knows_only_the_convention_drives_it(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads program.md, edits train.py, commits, calls the verbs, and reads results.tsv."""
    folder = repository(tmp_path, (PROGRAM / "train.py").read_text())
    for name in ("program.md", "prepare.py"):
        (folder / name).write_text((PROGRAM / name).read_text())
    text = tmp_path / "text.txt"
    animals = ("cat", "dog", "fox", "hen", "owl", "bee", "cow", "ant")
    articles = [
        f"the {a} sat on the {b} and the {b} ran far away from the {a}. " * 20
        for a in animals
        for b in animals
        if a != b
    ]
    text.write_text("<|endoftext|>".join(articles))
    git(tmp_path, "commit", "--quiet", "--all", "-m", "the program")
    monkeypatch.chdir(folder)

    options = ("--model", tiny_model("llama"), "--task", text, "--budget", 1, "--seeds", 2,
               "--threads", 1, "--window", 16, "--tag", "agent")  # fmt: skip
    said = lowbit("research", "init", ".", *options)
    assert said.code == 0, said.err
    assert "autoresearch/agent" in said.out
    assert "lowbit research trial" in (folder / "program.md").read_text()
    tree = Places(folder, "agent").tree
    train = tree / "train.py"
    alone = subprocess.run([sys.executable, "train.py"], cwd=tree, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    assert "val_ppl:" in alone.stdout, "it runs by itself"
    train.write_text(change(train.read_text(), "LR", 1e-5))
    git(tree, "commit", "--quiet", "--all", "-m", "a smaller rate")
    said = lowbit("research", "trial")
    assert said.code == 0, said.all
    rows = from_tsv((tree / "results.tsv").read_text())
    assert [row.description for row in rows] == ["baseline: the program as it is", "a smaller rate"]
    assert rows[0].val_ppl is not None
    assert rows[1].status in ("keep", "discard")

    train.write_text("raise SystemExit('a syntax of its own')\n")
    said = lowbit("research", "trial", "-m", "broken")
    assert said.code == 1
    assert "crash" in said.out
    assert "LR" in train.read_text(), "rolled back: its own shell needs no git"
    said = lowbit("research", "status")
    assert "1 crash" in said.out
    assert lowbit("research", "report").code == 0
    assert "a smaller rate" in (folder / "results" / "agent" / "report.html").read_text()
    assert git(tmp_path, "rev-parse", "--abbrev-ref", "HEAD") == "main"


DRIVE = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from helpers.campaigns import Arithmetic, SETTINGS, machine
from dataclasses import replace
from lowbit.research.campaign.settings import Places
from lowbit.research.proposers import proposer

class Slow(Arithmetic):
    def __call__(self, job):
        time.sleep(0.02)
        return super().__call__(job)

machine(Places(Path({folder!r}), {tag!r}), Slow()).run(proposer("random", 1), 8, {jobs})
"""


@pytest.mark.parametrize("jobs", [1, 3])
def test_kill_9_at_any_moment_and_resume_lose_and_double_nothing(tmp_path: Path, jobs: int) -> None:
    folder = repository(tmp_path)
    calm = begin(folder, replace(SETTINGS, tag="calm"))
    undisturbed = machine(calm)
    undisturbed.run(proposer("random", 1), 8, jobs)

    places = begin(folder, replace(SETTINGS, tag="killed"))
    code = DRIVE.format(tests=str(TESTS), folder=str(folder), tag="killed", jobs=jobs)
    source, kills = random.Random(jobs), 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        before, waited = places.ledger.stat().st_size, time.monotonic()
        while process.poll() is None and places.ledger.stat().st_size == before:
            time.sleep(0.005)
            assert time.monotonic() < waited + 120, "it does not go on"
        try:
            assert process.wait(timeout=source.uniform(0.0, 0.8)) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills >= 3
    state = replay(Ledger(places.ledger).events)
    assert state is not None
    one, two = (
        [(t.number, t.edit, t.status, t.reason, t.gain, t.confirmation) for t in s.trials.values()]
        for s in (state, undisturbed.state)
    )
    assert one == two
    events = Ledger(places.ledger).events
    runs = [(e.body["commit"], e.body["role"], e.body["seed"]) for e in events if e.kind == "ran"]
    assert len(runs) == len(set(runs))
    assert places.branch.head() == state.incumbent
    assert (tmp_path / "other.txt").read_text() == "the person's uncommitted work\n"
