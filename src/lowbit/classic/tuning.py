"""One fine-tune by bits, rank and seed, and its metrics as one JSON file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowbit.commands import adapt_one
from lowbit.errors import RunError
from lowbit.files import lines, to_json, write_atomic
from lowbit.record import LOG, Record, load
from lowbit.single import single
from lowbit.study import Study

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


def fine_tune(asked: Asked, results: Path, name: str) -> Path:
    """Train, or recall, and write the metrics; the run itself lies in `results/runs`."""
    chosen = (f"plan.rank={asked.rank}", 'plan.embedding="bf16"', 'plan.alpha="2r"')
    text = format_of(asked.bits)
    words = (*chosen, f'plan.name="{text} r{asked.rank}"', 'train.keep="last"', *asked.settings)
    spec, execution = single(model_name(asked), asked.task, text, asked.seed, words)
    out = results / "runs"
    one = Study(out, spec.name, "", (), (spec,), execution, out)
    adapt_one(one, None, rerun=False, instead="--model FOLDER")
    folder = one.place(spec)
    record = load(folder)
    if record is None or record.status != "done":
        raise RunError(f"{folder} has no score: {record.message if record else 'not finished'}")
    path = results / name
    body = metrics(asked, record, list(lines(folder / LOG)), folder)
    write_atomic(path, (to_json(body) + "\n").encode())
    return path


def metrics(
    asked: Asked, record: Record, log: list[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """What the documents log: loss and perplexity, every epoch too, gradients, cost."""
    steps = [line for line in log if "grad_norm" in line]
    epochs = [line for line in log if "selection" in line]
    norms = [line["grad_norm"] for line in steps]
    variances = [line["grad_variance"] for line in steps if "grad_variance" in line]
    return {
        "bits": asked.bits,
        "rank": asked.rank,
        "seed": asked.seed,
        "model": record.model,
        "task": record.task,
        "eval_loss": record.metrics["loss"],
        "perplexity": record.metrics.get("perplexity"),
        "epochs": [{"epoch": e["epoch"], "selection": e["selection"]} for e in epochs],
        "curve": [[line["step"], line["loss"]] for line in steps],
        "gradient_norms": [[line["step"], line["grad_norm"]] for line in steps],
        "gradient_norm": sum(norms) / len(norms) if norms else None,
        "gradient_variance": sum(variances) / len(variances) if variances else None,
        "stored_bytes": record.bytes.stored,
        "trainable": record.trainable,
        "peak_bytes": record.cost.peak_bytes,
        "wall_s": record.cost.wall_s,
        "cpu_s": record.cost.cpu_s,
        "gpu_s": record.cost.gpu_s,
        "fingerprint": record.fingerprint,
        "run": folder.name,
    }
