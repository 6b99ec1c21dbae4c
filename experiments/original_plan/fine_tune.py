"""Fine-tune once by bits, rank and seed, and write the metrics as one JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lowbit import Record, RunSpec
from lowbit.core.errors import RunError, UserError
from lowbit.core.files import to_json, write_atomic
from lowbit.core.toml import check
from lowbit.runs.store import FinishedRun, ResultsFolder
from lowbit.study.execute import RunOptions, execute_single, finished_or_raise, single_run_study
from lowbit.study.study import Study
from original_plan.pairs import Row, identity

BITS = {16: "bf16", 8: "int8@64", 4: "int4@64"}
ALL_BITS = (16, 8, 6, 5, 4, 3, 2)
HUB, LOCAL = "microsoft/DialoGPT-medium", "assets:lm-14m"
TASK = "dailydialog"


@dataclass(frozen=True)
class FineTuneRequest:
    """Bits, rank, seed, model and task of one fine-tune.

    `settings` are KEY=VALUE as for `lowbit adapt --set`.
    """

    bits: int
    rank: int = 16
    seed: int = 0
    model: str = ""
    task: str = TASK
    settings: tuple[str, ...] = ()


def model_name(request: FineTuneRequest) -> str:
    """The requested model; by default a small one from the assets, or the original plan's."""
    return request.model or (LOCAL if os.environ.get("LOWBIT_ASSETS") else HUB)


def format_of(bits: int) -> str:
    """The format that stands for a bit-width."""
    return BITS.get(bits, f"int{bits}@64")


def fine_tune(request: FineTuneRequest, results: Path, stem: str) -> Path:
    """Train, or read the finished run in `results/runs`, and write its metrics file."""
    # `lowbit.adapt` refuses a folder that holds a run with other settings; here both are kept. Its
    # error messages name the option of `lowbit adapt` instead of the scripts' --model.
    study = _own_folder(_study(request, results / "runs"))
    endings = execute_single(study, None, RunOptions(model_hint="--model FOLDER"))
    run = finished_or_raise(study, endings)
    if run.record.status != "done":
        raise RunError(f"{run.folder} has no score: {run.record.message}")
    return write(metrics(request, run, results), results, stem)


def _study(request: FineTuneRequest, folder: Path) -> Study:
    """The fine-tune as a study of one run."""
    text = format_of(request.bits)
    settings = (
        *(f"plan.rank={request.rank}", 'plan.embedding="bf16"', 'plan.alpha="2r"'),
        *(f'plan.name="{text} r{request.rank}"', 'train.keep="last"'),
        *request.settings,
    )
    study = single_run_study(
        model_name(request), request.task, text, folder, request.seed, settings
    )
    plan = study.runs[0].plan
    if (plan.format, plan.rank, plan.rule) != (text, request.rank, ()):
        raise UserError(
            "--set cannot change plan.format, plan.rank or plan.rule: use --bits and --rank"
        )
    return study


def _own_folder(study: Study) -> Study:
    """The same study, with a results folder of its own if a run with other settings is in it."""
    spec = study.runs[0]
    run = ResultsFolder(study.results).find(spec.name)
    if run is None or run.record.fingerprint == spec.fingerprint:
        return study
    return replace(study, results=study.results / spec.fingerprint)


def write(row: Row, results: Path, stem: str) -> Path:
    """Write the metrics to `stem`.json, or to a file with the fingerprint in its name.

    The second is used if `stem`.json has metrics of another run.
    """
    path = results / f"{stem}.json"
    if _holds_another(path, row):
        path = results / f"{stem}_{row['fingerprint'][:8]}.json"
    write_atomic(path, (to_json(row) + "\n").encode())
    return path


def _holds_another(path: Path, row: Row) -> bool:
    """Whether the file has metrics of another run, in another folder."""
    try:
        present = json.loads(path.read_text(encoding="utf-8"))
        same = row["fingerprint"] == present["fingerprint"] or row["run"] == present["run"]
        return "settings" in present and not same
    except (OSError, ValueError, TypeError, KeyError):
        return False


def metrics(request: FineTuneRequest, run: FinishedRun, results: Path) -> Row:
    """The metrics file of a finished run, with its folder relative to `results`."""
    folder = Path(os.path.relpath(run.folder, results)).as_posix()
    return metrics_of(request, run.record, run.log, folder)


def metrics_of(
    request: FineTuneRequest, record: Record, log: Sequence[dict[str, Any]], folder: str
) -> Row:
    """Loss and perplexity at the end and by epoch, gradients, and cost.

    Gradients are averaged after the warm-up: the first gradients of an adapter depend more on the
    start than on the bits.
    """
    train = check(RunSpec, record.spec, None).train
    steps = [line for line in log if "grad_norm" in line]
    warm = train.warm_steps(steps[-1]["step"]) if steps else 0
    return {
        "bits": request.bits,
        "rank": request.rank,
        "seed": request.seed,
        "model": record.model,
        "task": record.task,
        "plan": record.plan,
        **identity(record),
        "eval_loss": record.metrics["loss"],
        "perplexity": record.metrics.get("perplexity"),
        "epochs_scored": "each" if train.select == "epoch" else "last",
        "epochs": [_epoch(line, record.metric) for line in log if "selection" in line],
        "curve": [[line["step"], line["loss"]] for line in steps],
        "gradient_norms": [[line["step"], line["grad_norm"]] for line in steps],
        "warmup_steps": warm,
        "gradient_norm": _after(warm, steps, "grad_norm"),
        "gradient_variance": _after(warm, steps, "grad_variance"),
        "stored_bytes": record.bytes.stored,
        "trainable": record.trainable,
        "peak_bytes": record.cost.peak_bytes,
        "wall_s": record.cost.wall_s,
        "cpu_s": record.cost.cpu_s,
        "gpu_s": record.cost.gpu_s,
        "fingerprint": record.fingerprint,
        "run": folder,
    }


def _epoch(line: dict[str, Any], metric: str) -> Row:
    """Loss, or a classifier's score, on the selection split after an epoch.

    `eval_loss` of the whole file is of another split, the scored one.
    """
    value = line["selection"]
    entry = {"epoch": line["epoch"], "step": line["step"], "split": "selection"}
    if metric != "loss":
        return {**entry, metric: value}
    return {**entry, "eval_loss": value, "perplexity": math.exp(value) if value < 700 else None}


def _after(warm: int, steps: Sequence[dict[str, Any]], key: str) -> float | None:
    """The mean over the log lines that begin after the warm-up, weighted by their steps."""
    starts = [0, *(line["step"] for line in steps)]
    weighted = [
        (line["step"] - start, line[key])
        for start, line in zip(starts, steps, strict=False)
        if start >= warm and key in line
    ]
    total = sum(count for count, _ in weighted)
    return sum(count * value for count, value in weighted) / total if total else None
