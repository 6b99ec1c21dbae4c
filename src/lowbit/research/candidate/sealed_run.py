"""Runs a candidate once in the sandbox and scores the model that it exports.

The run has a folder with `train.py` of the candidate's commit, `prepare.py` of the campaign's base
commit, and `trial.json`. Digests of the read-only files are compared before and after the run. The
candidate prints its perplexity on the check text. This claim is only compared with our own value,
to detect a false one. The scores that decide come from the evaluator, which reads the exported
model in a process of its own. Each run therefore costs an evaluation in addition to its training.
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
CLAIM_KEYS = ("val_ppl", "training_seconds", "total_tokens_M")
TOLERANCE = 0.01
"""Relative difference allowed between claim and our value: training has 32 bits, the export 16."""
EVALUATION_SECONDS = 1_800.0
"""Time limit of the evaluation, for each text."""
LARGEST = 1e9
"""Larger times and token counts in a claim are not plausible."""
TAIL = 2_000
"""Characters of output to store of a failed run."""


@dataclass(frozen=True)
class SealedJob:
    """A run to do."""

    key: Key
    text: str
    """train.py."""
    fixed: str
    """prepare.py."""
    seconds: float
    """Training budget, if `tokens` is 0."""
    tokens: int
    """Training tokens."""
    limit: float
    """Seconds after which the run is killed."""


Runner = Callable[[SealedJob], RunResult]


@dataclass(frozen=True)
class SealedRunner:
    """Runs jobs of a campaign, each in a folder of its own, as isolated as the system allows."""

    settings: CampaignSettings
    places: Places
    model: Path
    isolate: bool = True
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Kill all current runs."""
        self.cancelled.set()

    def __call__(self, job: SealedJob) -> RunResult:
        commit, role, seed = job.key
        folder = self.places.runs / f"{commit[:12]}-{role}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            return self._run(job, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, job: SealedJob, folder: Path) -> RunResult:
        inputs = self.places.inputs
        (folder / MUTABLE).write_text(job.text, encoding="utf-8")
        (folder / FIXED).write_text(job.fixed, encoding="utf-8")
        description = self._description(job.key[2], job.seconds, job.tokens)
        (folder / TRIAL_FILE).write_text(json.dumps(description), encoding="utf-8")
        read_only = [folder / FIXED, folder / TRIAL_FILE, inputs / DATA, inputs / CHECK]
        before = manifest(read_only)
        # The evaluator loads its libraries while the candidate trains.
        with self._evaluator(job, folder) as evaluator:
            try:
                return self._run_candidate(evaluator, job, folder, read_only, before)
            finally:
                evaluator.kill()

    def _run_candidate(
        self,
        evaluator: subprocess.Popen[str],
        job: SealedJob,
        folder: Path,
        read_only: list[Path],
        before: dict[str, str],
    ) -> RunResult:
        outcome = sandbox.run(
            [sys.executable, "-E", "-s", MUTABLE],
            folder,
            Limits(job.limit, memory=self.settings.memory),
            readable=[self.places.inputs, *_model_files(self.model)],
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
        if manifest(read_only) != before:
            return RunResult("tamper", **measured, detail="the run changed read-only files")
        if outcome.end != "done":
            reason = "crash" if outcome.end == "failed" else outcome.end
            return RunResult(reason, **measured, detail=_tail(outcome.output, folder))
        return self._evaluate(evaluator, job, folder, parse_claim(outcome.output), measured)

    def trial_description(self) -> dict[str, Any]:
        """trial.json for a trial by hand in the worktree: the screening seed and the budget."""
        return self._description(self.settings.seeds[0], self.settings.budget, 0)

    def _description(self, seed: int, seconds: float, tokens: int) -> dict[str, Any]:
        inputs = self.places.inputs
        paths = {"model": self.model, "data": inputs / DATA, "check": inputs / CHECK}
        return {
            **{name: str(path) for name, path in paths.items()},
            "seed": seed,
            "seconds": seconds,
            "tokens": tokens,
            "threads": self.settings.threads,
            "device": self.settings.device,
        }

    def _evaluate(
        self,
        evaluator: subprocess.Popen[str],
        job: SealedJob,
        folder: Path,
        claim: dict[str, float] | None,
        measured: dict[str, Any],
    ) -> RunResult:
        """Compare the claim with the evaluator's answer, which has the scores of the run."""
        if claim is None:
            return RunResult(
                "no claim", **measured, detail="it ended without printing the required figures"
            )
        if not math.isfinite(claim["val_ppl"]):
            return RunResult("nan", **measured)
        measured["tokens"] = max(0, round(claim["total_tokens_M"] * 1e6))
        measured["trained"] = min(max(0.0, claim["training_seconds"]), measured["seconds"])
        start = time.monotonic()
        answer = _answer_of(evaluator, EVALUATION_SECONDS * len(PARTS[job.key[1]]), folder)
        measured["evaluated"] = round(time.monotonic() - start, 2)
        for reason in ("refused", "evaluator"):
            if reason in answer:
                return RunResult(reason, **measured, detail=answer[reason])
        scores = {n: RunScores(tuple(s), tuple(c)) for n, (s, c) in answer["texts"].items()}
        more = {"bits": round(answer["bits"], 4), "zero": round(answer["zero"], 4)}
        perplexity = math.inf if answer["check"] is None else answer["check"]
        if not abs(claim["val_ppl"] - perplexity) <= TOLERANCE * perplexity:
            detail = (
                f"claimed perplexity {claim['val_ppl']:.4f} on the check text, but the exported "
                f"model has {perplexity:.4f}"
            )
            return RunResult("claim", **measured, **more, detail=detail)
        return RunResult("", **measured, **more, scores=scores)

    def _evaluator(self, job: SealedJob, folder: Path) -> subprocess.Popen[str]:
        """Start the evaluator, which may read the evaluation text."""
        request = {
            "model": str(self.model),
            "artefact": str(folder),
            "check": str(self.places.hidden / HIDDEN_CHECK),
            "texts": {n: str(self.places.hidden / f"{n}.json") for n in PARTS[job.key[1]]},
            "threads": self.settings.threads,
            "device": self.settings.device,
        }
        # -P: a module in the working folder must not replace one of ours.
        command = [
            sys.executable,
            "-P",
            "-m",
            "lowbit.research.candidate.evaluator",
            json.dumps(request),
        ]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _answer_of(evaluator: subprocess.Popen[str], longest: float, folder: Path) -> dict[str, Any]:
    """Let the evaluator score the artefact, now that the candidate has ended."""
    try:
        output, errors = evaluator.communicate("go\n", timeout=longest)
    except subprocess.TimeoutExpired:
        return {"evaluator": f"the evaluation took more than {longest:.0f} s"}
    if evaluator.returncode:
        # Either the candidate's artefact or the machine may be the cause.
        return {"evaluator": f"the evaluation failed: {_tail(errors, folder)}"}
    answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return answer


def manifest(paths: list[Path]) -> dict[str, str]:
    """Path -> digest of the file; empty if the path is missing, a link or not a file."""
    return {
        str(path): file_digest(path) if path.is_file() and not path.is_symlink() else ""
        for path in paths
    }


def parse_claim(output: str) -> dict[str, float] | None:
    """The figures after the line `---`; None if one is missing or not a plausible number."""
    figures: dict[str, float] = {}
    _, dashes, rest = output.rpartition("---\n")
    for line in rest.splitlines() if dashes else ():
        key, colon, value = line.partition(":")
        if colon and key in CLAIM_KEYS:
            try:
                figures[key] = float(value)
            except ValueError:
                return None
    return figures if set(figures) == set(CLAIM_KEYS) and _is_plausible(figures) else None


def _is_plausible(figures: Mapping[str, float]) -> bool:
    """Whether a run could have these times and tokens. Any perplexity passes; it is checked."""
    return all(0 <= value < LARGEST for key, value in figures.items() if key != "val_ppl")


def _model_files(model: Path) -> list[Path]:
    """The model's folder, and the folder of blobs that its files link to in the hub's cache."""
    folders = [model.resolve()]
    if model.parent.name == "snapshots":
        folders.append(model.parent.parent.resolve() / "blobs")
    return folders


def _tail(output: str, folder: Path) -> str:
    """The end of the output, without the path of the run's folder."""
    return output[-TAIL:].replace(str(folder), ".").strip()
