"""One run of a candidate: a copy, a seal, a claim, and our own figure beside it.

The copy holds `train.py` of the candidate's commit, `prepare.py` of the campaign's first one, and
`trial.json`. A manifest of digests is taken before and looked at after. What is printed is a claim
about the check text; what counts is what the evaluator finds in the artefact.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowbit.core.files import file_digest
from lowbit.research.campaign.run_result import RunResult, RunScores
from lowbit.research.campaign.settings import (
    CHECK,
    DATA,
    FIXED,
    GPUS,
    HIDDEN_CHECK,
    MUTABLE,
    TRIAL_FILE,
    CampaignSettings,
    Places,
)
from lowbit.research.campaign.state import Key, Role
from lowbit.research.candidate import sandbox
from lowbit.research.candidate.process_watch import Limits

PARTS: dict[Role, tuple[str, ...]] = {
    "screen": ("screening",),
    "again": ("screening",),
    "confirm": ("confirmation",),
    "replay": ("confirmation",),
    "fresh": ("confirmation", "sealed"),
}
CLAIMED = ("val_ppl", "training_seconds", "total_tokens_M")
TOLERANCE = 0.01
"""Of a claim against our figure: numbers of 16 bits are kept, of 32 were trained."""
EVALUATION_SECONDS = 1_800.0
"""Of each text."""
LARGEST = 1e9
TAIL = 2_000


@dataclass(frozen=True)
class SealedJob:
    """A run that is wanted. `tokens` 0: `seconds` of the clock decide; `limit` kills."""

    key: Key
    text: str
    fixed: str
    seconds: float
    tokens: int
    limit: float


Runner = Callable[[SealedJob], RunResult]


@dataclass(frozen=True)
class SealedRunner:
    """Runs jobs for a campaign, each in a copy under what isolation there is."""

    settings: CampaignSettings
    places: Places
    model: Path
    isolate: bool = True
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Kill whatever runs, now."""
        self.cancelled.set()

    def __call__(self, job: SealedJob) -> RunResult:
        commit, role, seed = job.key
        folder = self.places.runs / f"{commit[:12]}-{role}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            return self._ran(job, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ran(self, job: SealedJob, folder: Path) -> RunResult:
        given = self.places.inputs
        (folder / MUTABLE).write_text(job.text, encoding="utf-8")
        (folder / FIXED).write_text(job.fixed, encoding="utf-8")
        description = self._described(job.key[2], job.seconds, job.tokens)
        (folder / TRIAL_FILE).write_text(json.dumps(description), encoding="utf-8")
        guarded = [folder / FIXED, folder / TRIAL_FILE, given / DATA, given / CHECK]
        before = manifest(guarded)
        # It makes ready while the candidate does: by the time that it is needed, it waits.
        with self._evaluator(job, folder) as evaluator:
            try:
                return self._judged_by(evaluator, job, folder, guarded, before)
            finally:
                evaluator.kill()

    def _judged_by(
        self,
        evaluator: subprocess.Popen[str],
        job: SealedJob,
        folder: Path,
        guarded: list[Path],
        before: dict[str, str],
    ) -> RunResult:
        given = self.places.inputs
        outcome = sandbox.run(
            [sys.executable, "-E", "-s", MUTABLE],
            folder,
            Limits(job.limit, memory=self.settings.memory),
            readable=[given, *_model_files(self.model)],
            isolate=self.isolate,
            devices=GPUS[self.settings.device],
            cancelled=self.cancelled.is_set,
        )
        level = outcome.level
        measured: dict[str, Any] = {
            "seconds": round(outcome.seconds, 2),
            "peak": outcome.peak,
            "sealed": level.sealed,
            "level": f"files {level.files}, network {level.network}, processes {level.processes}",
        }
        if manifest(guarded) != before:
            return RunResult("tamper", **measured, detail="files that are read-only were changed")
        if outcome.end != "done":
            reason = "crash" if outcome.end == "failed" else outcome.end
            return RunResult(reason, **measured, detail=_tail(outcome.output, folder))
        return self._judged(evaluator, job, folder, parse_claim(outcome.output), measured)

    def described(self) -> dict[str, Any]:
        """A trial by hand: the screening seed, by the clock."""
        return self._described(self.settings.seeds[0], self.settings.budget, 0)

    def _described(self, seed: int, seconds: float, tokens: int) -> dict[str, Any]:
        given = self.places.inputs
        paths = {"model": self.model, "data": given / DATA, "check": given / CHECK}
        return {
            **{name: str(path) for name, path in paths.items()},
            "seed": seed,
            "seconds": seconds,
            "tokens": tokens,
            "threads": self.settings.threads,
            "device": self.settings.device,
        }

    def _judged(
        self,
        evaluator: subprocess.Popen[str],
        job: SealedJob,
        folder: Path,
        claim: dict[str, float] | None,
        measured: dict[str, Any],
    ) -> RunResult:
        if claim is None:
            return RunResult(
                "no claim", **measured, detail="it ended without the lines that are asked for"
            )
        if not math.isfinite(claim["val_ppl"]):
            return RunResult("nan", **measured)
        measured["tokens"] = max(0, round(claim["total_tokens_M"] * 1e6))
        measured["trained"] = min(max(0.0, claim["training_seconds"]), measured["seconds"])
        began = time.monotonic()
        answer = _evaluated(evaluator, EVALUATION_SECONDS * len(PARTS[job.key[1]]), folder)
        measured["evaluated"] = round(time.monotonic() - began, 2)
        for reason in ("refused", "evaluator"):
            if reason in answer:
                return RunResult(reason, **measured, detail=answer[reason])
        scores = {n: RunScores(tuple(s), tuple(c)) for n, (s, c) in answer["texts"].items()}
        more = {"bits": round(answer["bits"], 4), "zero": round(answer["zero"], 4)}
        checked = math.inf if answer["check"] is None else answer["check"]
        if not abs(claim["val_ppl"] - checked) <= TOLERANCE * checked:
            detail = (
                f"claimed {claim['val_ppl']:.4f} on the check text, where we find {checked:.4f}"
            )
            return RunResult("claim", **measured, **more, detail=detail)
        return RunResult("", **measured, **more, scores=scores)

    def _evaluator(self, job: SealedJob, folder: Path) -> subprocess.Popen[str]:
        """A process of its own, which has what no candidate has."""
        request = {
            "model": str(self.model),
            "artefact": str(folder),
            "check": str(self.places.hidden / HIDDEN_CHECK),
            "texts": {n: str(self.places.hidden / f"{n}.json") for n in PARTS[job.key[1]]},
            "threads": self.settings.threads,
            "device": self.settings.device,
        }
        # -P: what lies in the folder that somebody stands in is no module of ours.
        command = [
            sys.executable,
            "-P",
            "-m",
            "lowbit.research.candidate.evaluator",
            json.dumps(request),
        ]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _evaluated(evaluator: subprocess.Popen[str], longest: float, folder: Path) -> dict[str, Any]:
    """What the evaluator finds, now that the candidate has ended."""
    try:
        output, complaint = evaluator.communicate("go\n", timeout=longest)
    except subprocess.TimeoutExpired:
        return {"evaluator": f"scoring it took more than {longest:.0f} s"}
    if evaluator.returncode:
        # What breaks our own process may be the candidate's doing, or the machine's.
        return {"evaluator": f"scoring it failed: {_tail(complaint, folder)}"}
    answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return answer


def manifest(paths: list[Path]) -> dict[str, str]:
    """Digests by path; what was a file and is none any more differs too."""
    return {
        str(path): file_digest(path) if path.is_file() and not path.is_symlink() else ""
        for path in paths
    }


def parse_claim(output: str) -> dict[str, float] | None:
    """The figures after the line `---`; None where one is missing or no number."""
    figures: dict[str, float] = {}
    _, dashes, rest = output.rpartition("---\n")
    for line in rest.splitlines() if dashes else ():
        key, colon, value = line.partition(":")
        if colon and key in CLAIMED:
            try:
                figures[key] = float(value)
            except ValueError:
                return None
    return figures if set(figures) == set(CLAIMED) and _sane(figures, "val_ppl") else None


def _sane(figures: Mapping[str, float], but: str) -> bool:
    """Whether times and tokens are numbers that a run could have."""
    return all(0 <= value < LARGEST for key, value in figures.items() if key != but)


def _model_files(model: Path) -> list[Path]:
    """A model's folder; in the hub's cache its files are links into a folder beside it."""
    folders = [model.resolve()]
    if model.parent.name == "snapshots":
        folders.append(model.parent.parent.resolve() / "blobs")
    return folders


def _tail(output: str, folder: Path) -> str:
    """The end of what was printed, without this machine's paths."""
    return output[-TAIL:].replace(str(folder), ".").strip()
