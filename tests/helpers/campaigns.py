"""A campaign whose runs are computed by a formula: fast and repeatable."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from lowbit.research.campaign.edits import constants
from lowbit.research.campaign.git_branch import git
from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.run_result import RunResult, RunScores
from lowbit.research.campaign.settings import CampaignSettings, Places
from lowbit.research.candidate.sealed_run import PARTS, SealedJob
from lowbit.research.loop import Loop

TRAIN = """import prepare

WARMUP_SHAPE = "linear"
LR = 1e-4
GROUP = 128
SCALE = "absmean"
BIAS = False
"""
ARTICLES = 8
SETTINGS = CampaignSettings(
    "one", "no model", budget=10.0, seeds=(9, 0, 1, 2, 3), fresh=(18, 19), horizon=8
)


def repository(home: Path, train: str = TRAIN) -> Path:
    """A person's repository with a campaign folder in it, and work that is not committed."""
    folder = home / "studies" / "ternary"
    folder.mkdir(parents=True)
    for name, text in (
        ("program.md", "# program\n"),
        ("prepare.py", "# fixed\n"),
        ("train.py", train),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    (home / "other.txt").write_text("committed\n", encoding="utf-8")
    git(home, "init", "--quiet", "-b", "main")
    git(home, "add", ".")
    git(home, "commit", "--quiet", "-m", "start")
    (home / "other.txt").write_text("the person's uncommitted work\n", encoding="utf-8")
    return folder


def quality(text: str) -> float:
    """The loss that a program deserves: a better rate helps most, a longer warm-up a little."""
    values = constants(text)
    rate = abs(math.log10(float(values["LR"])) + 3.0)
    shape = 0.0 if values["WARMUP_SHAPE"] == "cosine" else 0.03
    return 4.0 + 0.3 * rate + shape + (0.05 if values["GROUP"] == 256 else 0.0)


@dataclass
class Arithmetic:
    """Runs that give the program's deserved loss, and noise that its seed alone decides."""

    noise: float = 0.01
    jobs: list[SealedJob] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    pace: Any = None
    """Job -> how many times as fast the machine is just now; more text of the same time helps."""

    def __call__(self, job: SealedJob) -> RunResult:
        self.jobs.append(job)
        _, role, seed = job.key
        reason = next((why for what, why in self.broken.items() if what in job.text), "")
        pace = self.pace(job) if self.pace else 1.0
        tokens = job.tokens or round(5_000 * pace)
        fields: dict[str, Any] = {"seconds": 12.0, "peak": 2**30, "tokens": tokens}
        fields |= {"trained": 10.0, "evaluated": 2 / pace, "sealed": True, "level": "arithmetic"}
        if reason:
            return RunResult(reason, **fields, detail=f"because of {reason}")
        # A replay meets the luck of the ending's fresh seeds, which it is held against.
        luck = {"replay": "fresh", "again": "screen"}.get(role, role)
        source = random.Random(f"{luck} {seed}")
        own = random.Random(f"{luck} {seed} {job.text}")
        deserved = quality(job.text) - 0.2 * math.log2(tokens / 5_000)
        scores = {part: _scores(deserved, source, own, self.noise) for part in PARTS[role]}
        bits = 1.6 + 16 / max(1, constants(job.text)["GROUP"])
        return RunResult("", **fields, scores=scores, bits=bits, zero=0.3)


def _scores(loss: float, source: random.Random, own: random.Random, noise: float) -> RunScores:
    """Articles differ, the seed moves all of them, and a program's own luck moves each a little."""
    luck = source.gauss(0, noise)
    sums = [
        1_000 * (loss + luck + source.gauss(0, 0.2) + own.gauss(0, noise / 10))
        for _ in range(ARTICLES)
    ]
    return RunScores(tuple(sums), (1_000,) * ARTICLES)


def begin(folder: Path, settings: CampaignSettings = SETTINGS) -> Places:
    """A campaign's first line, without any model or text."""
    places = Places(folder, settings.tag)
    base = git(places.branch.repository, "rev-parse", "HEAD")
    places.work.mkdir(parents=True, exist_ok=True)
    (places.work.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    if not Ledger(places.ledger).events:
        Ledger(places.ledger, ticking()).append(
            "begun", settings=settings.to_json(), base=base, texts={}, facts={}
        )
    return places


def ticking(start: int = 1_000) -> Any:
    ticks = count(start)
    return lambda: float(next(ticks))


def machine(places: Places, runner: Any = None, **more: Any) -> Loop:
    """The loop over a campaign, on a clock that ticks once a line."""
    ledger = Ledger(places.ledger, ticking(2_000 + len(Ledger(places.ledger).events)))
    more = {"clock": lambda: 5_000.0 + len(ledger.events), "wait": lambda seconds: None, **more}
    loop = Loop(places, ledger, runner or Arithmetic(), **more)
    loop.settle()
    return loop
