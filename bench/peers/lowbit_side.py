"""lowbit's side: its loading, its training loop and its worker pool.

The public `lowbit.adapt` is not used here: each step is timed from inside the loop, and every side
must train on the same prepared examples.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from request import RANK, WORKS, Job, data_of, folder_of, summary

FORMATS = ("nf4@64", "nf4@64+dq")
"""The two plans of the mini-matrix."""


def run(job: Job) -> dict[str, float]:
    """One training, timed step by step."""
    import torch
    import transformers.models.bert.modeling_bert
    import transformers.models.llama.modeling_llama  # noqa: F401

    from lowbit.core.execution import Execution
    from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
    from lowbit.models.checkpoint import open_checkpoint, tokenizer_of
    from lowbit.runs import device as machine
    from lowbit.runs.build import build_run
    from lowbit.runs.prepare import Prepared
    from lowbit.tasks.base import Data
    from lowbit.tasks.prepare import find_task
    from lowbit.train.evaluate import evaluate, ratio
    from lowbit.train.loop import LoopSettings, train_model

    folder, reads = folder_of(job.model)
    execution = Execution(
        device="cpu",
        residency="decoded" if job.side in ("ours-decoded", "ours-int8") else "packed",
        checkpointing=job.side in ("ours-checkpointing", "ours-least"),
        sparing=job.side == "ours-least",
    )
    compute: Any = "int8" if job.side == "ours-int8" else "auto"
    here = machine.open_machine(execution, compute)
    device = here.device
    checkpoint = open_checkpoint(folder)
    tokenizer = tokenizer_of(folder) if reads else None
    train, scored = data_of(job, tokenizer, checkpoint.config.vocab_size)
    memory = machine.PeakMemory(device)
    memory.start()
    name = "sst2" if job.work == "sst2" else "wikitext2"
    plan = Plan("bench", "nf4@64+dq" if job.dq else "nf4@64", embedding="bf16", rank=RANK)
    settings = TrainSpec(
        batch=WORKS[job.work],
        lr=1e-3,
        warmup=0,
        epochs=100,
        steps=job.steps,
        keep="last",
        compute=compute,
    )
    spec = RunSpec(job.model, TaskSpec(name), plan, settings, job.seed)
    task, parts = find_task(name), {"train": train, "selection": scored[:1], "scored": scored}
    data = Data(task.kind, parts, ("0", "1") if job.work == "sst2" else (), (), "bench")
    built = build_run(Prepared(spec, checkpoint, task, data, 0), here)
    marks: list[tuple[float, int]] = []
    setting = LoopSettings(
        kind=task.kind,
        train=settings,
        seed=job.seed,
        device=device,
        on_step=lambda _, __, tokens, ___: marks.append((time.perf_counter(), tokens)),
    )
    if job.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            train_model(built.model, parts, setting)
        averages = profile.key_averages(group_by_input_shape=True)
        sys.stderr.write(averages.table(sort_by="self_cpu_time_total", row_limit=40))
    else:
        train_model(built.model, parts, setting)
    peak = memory.peak() - memory.idle
    example_scores, _ = evaluate(built.model, scored, task.kind, 32, device)
    return {**summary(marks, peak, ratio(example_scores)), "threads": torch.get_num_threads()}


def run_matrix(job: Job) -> list[float]:
    """Six runs in the worker pool, two at a time with a thread each; their accuracies."""
    import tempfile

    from lowbit.core.execution import Execution
    from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
    from lowbit.runs.workers.pool import PoolJob, PoolOptions, run_jobs

    train = TrainSpec(batch=WORKS["sst2"], lr=1e-3, epochs=1, keep="last")
    task = TaskSpec("sst2", limit=job.sentences)
    plans = [Plan(f"p{i}", f, embedding="bf16", rank=RANK) for i, f in enumerate(FORMATS)]
    runs = [RunSpec(job.model, task, plan, train, seed) for plan in plans for seed in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [PoolJob(run, Path(folder) / run.name) for run in runs]
        residency: Any = "decoded" if job.side == "ours-decoded" else "packed"
        order = PoolOptions(Execution(device="cpu", residency=residency), jobs=2)
        endings = run_jobs(jobs, order, lambda _: None)
        return [e.record.metrics["accuracy"] for e in endings if e.record is not None]
