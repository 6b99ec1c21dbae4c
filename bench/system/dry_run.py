"""What a dry run says against what happens:  python bench/system/dry_run.py [MODEL TASK]...

For every model and task: the probe that `lowbit run --dry-run` makes, then the run itself, each in
a process of its own; bytes, peak memory and time side by side, and whether memory and time are
within 20 %. Time is what a person waits for the run: starting, loading, training and scoring.
Exits with 1 where one is not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.runs.workers.pool import Job, Order, run_jobs
from lowbit.runs.workers.process import call

WITHIN = 0.2
PLANS = (Plan("nf4", "nf4@64", embedding="bf16"), Plan("bf16", "bf16"))


def main() -> None:
    words = sys.argv[1:] or ["assets:lm-14m", "wikitext2", "assets:minilm", "sst2"]
    print(f"{'':28} {'said':>8} {'was':>8} {'off':>6}")
    off = [one(m, t, plan) for m, t in zip(words[::2], words[1::2], strict=True) for plan in PLANS]
    raise SystemExit(any(off))


def one(model: str, task: str, plan: Plan) -> bool:
    """Print a configuration's lines; whether any estimate was too far off."""
    language = task != "sst2"
    train = TrainSpec(epochs=1, batch=4 if language else 8, compute="fp32", keep="last")
    data = TaskSpec(task, limit=240 if language else 1600, scored_limit=120 if language else 0)
    spec = RunSpec(model, data, plan, train, 0)
    said = call(probe, spec)
    with tempfile.TemporaryDirectory() as folder:
        order = Order(Execution(device="cpu"), jobs=1)
        began = time.perf_counter()
        (ending,) = run_jobs([Job(spec, Path(folder) / spec.name)], order, lambda _: None)
        waited = time.perf_counter() - began
    if ending.record is None:
        raise SystemExit(ending.message)
    was = ending.record
    print(f"{spec.name}\n  {'stored bytes':26} {said.stored:8,} {was.bytes.stored:8,}")
    figures = {
        "peak MB": (said.peak_bytes / 1e6, was.cost.peak_bytes / 1e6),
        "seconds": (said.total_s, waited),
    }
    for name, (before, after) in figures.items():
        print(f"  {name:26} {before:8,.1f} {after:8,.1f} {before / after - 1:+6.0%}")
    return any(abs(before / after - 1) > WITHIN for before, after in figures.values())


def probe(spec: RunSpec) -> object:
    from lowbit.runs.dry_run import probe as measure

    return measure(spec, Execution(device="cpu"))


if __name__ == "__main__":
    main()
