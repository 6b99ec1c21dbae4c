"""Compare a dry run's estimates with the run itself.

    python bench/system/dry_run.py [MODEL TASK]...

For every model and task it runs the probe of `lowbit run --dry-run` and then the run, each in its
own process. It prints bytes, peak memory and time of both, and exits with 1 if memory or time
differ by more than 20 %. Time includes starting, loading, training and scoring. The public API
does not expose the probe.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.runs.workers.pool import PoolJob, PoolOptions, run_jobs
from lowbit.runs.workers.process import call

WITHIN = 0.2
PLANS = (Plan("nf4", "nf4@64", embedding="bf16"), Plan("bf16", "bf16"))


def main() -> None:
    words = sys.argv[1:] or ["assets:lm-14m", "wikitext2", "assets:minilm", "sst2"]
    print(f"{'':28} {'estimate':>8} {'run':>8} {'off':>6}")
    off = [
        compare(m, t, plan) for m, t in zip(words[::2], words[1::2], strict=True) for plan in PLANS
    ]
    raise SystemExit(any(off))


def compare(model: str, task: str, plan: Plan) -> bool:
    """Print a configuration's lines; whether any estimate was too far off."""
    language = task != "sst2"
    train = TrainSpec(epochs=1, batch=4 if language else 8, compute="fp32", keep="last")
    data = TaskSpec(task, limit=240 if language else 1600, scored_limit=120 if language else 0)
    spec = RunSpec(model, data, plan, train, 0)
    estimate = call(probe, spec)
    with tempfile.TemporaryDirectory() as folder:
        order = PoolOptions(Execution(device="cpu"), jobs=1)
        began = time.perf_counter()
        (ending,) = run_jobs([PoolJob(spec, Path(folder) / spec.name)], order, lambda _: None)
        waited = time.perf_counter() - began
    if ending.record is None:
        raise SystemExit(ending.message)
    was = ending.record
    print(f"{spec.name}\n  {'stored bytes':26} {estimate.stored:8,} {was.bytes.stored:8,}")
    figures = {
        "peak MB": (estimate.peak_bytes / 1e6, was.cost.peak_bytes / 1e6),
        "seconds": (estimate.total_s, waited),
    }
    for name, (before, after) in figures.items():
        print(f"  {name:26} {before:8,.1f} {after:8,.1f} {before / after - 1:+6.0%}")
    return any(abs(before / after - 1) > WITHIN for before, after in figures.values())


def probe(spec: RunSpec) -> object:
    from lowbit.runs.dry_run import measure_cost as measure

    return measure(spec, Execution(device="cpu"))


if __name__ == "__main__":
    main()
