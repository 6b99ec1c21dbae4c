"""One fine-tune by bits, rank and seed, and its metrics as one JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lowbit.core.errors import RunError, UserError
from lowbit.core.files import read_jsonl, to_json, write_atomic
from lowbit.core.spec import RunSpec
from lowbit.core.toml import check
from lowbit.runs.record import LOG, Record
from lowbit.runs.request import single
from lowbit.runs.store import find_run
from lowbit.study.execute import How, execute_single, finished_or_raise
from lowbit.study.study import Study
from original_plan.pairs import Row, identity

BITS = {16: "bf16", 8: "int8@64", 4: "int4@64"}
ALL_BITS = (16, 8, 6, 5, 4, 3, 2)
HUB, LOCAL = "microsoft/DialoGPT-medium", "assets:lm-14m"
TASK = "dailydialog"


@dataclass(frozen=True)
class Asked:
    """What is to be trained. `settings`: KEY=VALUE as for `lowbit adapt --set`."""

    bits: int
    rank: int = 16
    seed: int = 0
    model: str = ""
    task: str = TASK
    settings: tuple[str, ...] = ()


def model_name(asked: Asked) -> str:
    """The documents' model; a small one of the same task where assets lie at hand."""
    return asked.model or (LOCAL if os.environ.get("LOWBIT_ASSETS") else HUB)


def format_of(bits: int) -> str:
    return BITS.get(bits, f"int{bits}@64")


def fine_tune(asked: Asked, results: Path, stem: str) -> Path:
    """Train, or recall, and write the metrics; the run itself lies in `results/runs`."""
    chosen = (f"plan.rank={asked.rank}", 'plan.embedding="bf16"', 'plan.alpha="2r"')
    text = format_of(asked.bits)
    words = (*chosen, f'plan.name="{text} r{asked.rank}"', 'train.keep="last"', *asked.settings)
    spec, execution = single(model_name(asked), asked.task, text, asked.seed, words)
    if (spec.plan.format, spec.plan.rank, spec.plan.rule) != (text, asked.rank, ()):
        raise UserError("--set plan.format, plan.rank or plan.rule: bits and rank say them")
    one = _apart(Study(results / "runs", spec.name, "", (), (spec,), execution, results / "runs"))
    endings = execute_single(one, None, How(model_hint="--model FOLDER"))
    finished_or_raise(one, endings)
    folder = one.place(spec)
    finished = find_run(folder)
    record = None if finished is None else finished.record
    if record is None or record.status != "done":
        raise RunError(f"{folder} has no score: {record.message if record else 'not finished'}")
    where = folder.relative_to(results).as_posix()
    return write(metrics(asked, record, list(read_jsonl(folder / LOG)), where), results, stem)


def _apart(one: Study) -> Study:
    """The same run in a folder of its own where its place holds a run of other settings."""
    spec = one.runs[0]
    finished = find_run(one.place(spec))
    record = None if finished is None else finished.record
    if record is None or record.fingerprint == spec.fingerprint:
        return one
    return replace(one, results=one.results / spec.fingerprint)


def write(row: Row, results: Path, stem: str) -> Path:
    """The metrics as `stem`.json, or beside it where another run's are there: none is lost."""
    path = results / f"{stem}.json"
    if _holds_another(path, row):
        path = results / f"{stem}_{row['fingerprint'][:8]}.json"
    write_atomic(path, (to_json(row) + "\n").encode())
    return path


def _holds_another(path: Path, row: Row) -> bool:
    """Whether there are metrics of a run that is neither this one nor what lay in its place."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = row["fingerprint"] == found["fingerprint"] or row["run"] == found["run"]
        return "settings" in found and not same
    except (OSError, ValueError, TypeError, KeyError):
        return False


def metrics(asked: Asked, record: Record, log: Sequence[dict[str, Any]], run: str) -> Row:
    """What the documents log: loss and perplexity, every epoch too, gradients, cost.

    Gradients are averaged after the warm-up: an adapter's first ones are like no others, and would
    say more of the start than of the bits. `run`: the run's folder, seen from the results'.
    """
    train = check(RunSpec, record.spec, None).train
    steps = [line for line in log if "grad_norm" in line]
    warm = train.warm_steps(steps[-1]["step"]) if steps else 0
    return {
        "bits": asked.bits,
        "rank": asked.rank,
        "seed": asked.seed,
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
        "run": run,
    }


def _epoch(line: dict[str, Any], metric: str) -> Row:
    """What the selection split said after so much of the data: a loss, or a classifier's score.

    Not the scored split, which `eval_loss` of the whole file is of.
    """
    value = line["selection"]
    at = {"epoch": line["epoch"], "step": line["step"], "split": "selection"}
    if metric != "loss":
        return {**at, metric: value}
    return {**at, "eval_loss": value, "perplexity": math.exp(value) if value < 700 else None}


def _after(warm: int, steps: Sequence[dict[str, Any]], key: str) -> float | None:
    """The mean over the lines that begin after the warm-up, by how many steps each speaks of."""
    before = [0, *(line["step"] for line in steps)]
    found = [
        (line["step"] - start, line[key])
        for start, line in zip(before, steps, strict=False)
        if start >= warm and key in line
    ]
    total = sum(count for count, _ in found)
    return sum(count * value for count, value in found) / total if total else None
