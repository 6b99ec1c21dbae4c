"""Compare fp32 products by MKL and by oneDNN, alone and in training steps.

    python bench/kernels/matmul.py

One thread, because parallel runs have one each. The steps need `LOWBIT_ASSETS`; without it only
products are timed. Medians of 25 products, and of three rounds in which the libraries alternate.
The public API chooses the library itself, so this script switches it inside `lowbit.layers.matmul`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from clock import seconds

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.layers import matmul
from lowbit.models import packed_attention
from lowbit.runs import allocator
from lowbit.runs.build import build_run
from lowbit.runs.device import PeakMemory, cpu_machine
from lowbit.runs.prepare import prepare_run
from lowbit.tasks.batching import collate
from lowbit.train.losses import scores, training_loss

SHAPES = (
    (1024, 384, 384),
    (1024, 384, 1024),
    (1024, 1024, 384),
    (1024, 384, 8192),
    (90, 384, 1024),
)
WAYS = {
    "MKL, padded": (False, True),
    "MKL, one by one": (False, False),
    "oneDNN, padded": (True, True),
    "oneDNN, one by one": (True, False),
}
WORKS: tuple[tuple[str, TaskSpec, int], ...] = (
    ("assets:lm-14m", TaskSpec("dailydialog", window=256, limit=400), 8),
    ("assets:lm-14m", TaskSpec("wikitext2", window=256, limit=100), 4),
    ("assets:minilm", TaskSpec("sst2", limit=800), 8),
)
STEPS, ROUNDS, SCORED = 12, 3, 32


def main() -> None:
    torch.set_num_threads(1)
    allocator.keep_freed_memory()
    print(f"one thread; here lowbit multiplies with {matmul.simd_name()}")
    for tokens, width, out in SHAPES:
        x, weight = torch.randn(tokens, width), torch.randn(out, width)
        work = 2e-9 * tokens * width * out
        speeds = []
        for quick in (False, True):
            with using(quick, padded=False):
                speeds.append(work / seconds(lambda x=x, weight=weight: matmul.linear(x, weight)))
        print(f"{tokens} x {width} to {out}: MKL {speeds[0]:.0f}, oneDNN {speeds[1]:.0f} GFLOP/s")
    _kernels()
    if os.environ.get("LOWBIT_ASSETS"):
        for work in WORKS:
            _steps(*work)


def _kernels() -> None:
    """What oneDNN keeps after 188 batches of 600 to 1,100 rows: as lowbit rounds, then not."""
    memory, source = PeakMemory(torch.device("cpu")), random.Random(0)
    weights = [torch.randn(shape) for shape in ((384, 384), (1024, 384), (384, 1024))]
    rounded = matmul.padded_rows
    for name, rule in {"rounded": rounded, "as they come": lambda rows: rows}.items():
        matmul.padded_rows = rule
        before = memory.bytes_in_use()
        with using(quick=True, padded=False):
            for rows in (source.randint(600, 1100) for _ in range(188)):
                for weight in weights:
                    matmul.linear(torch.ones(rows, weight.shape[1]), weight)
                    matmul.input_gradient(torch.ones(rows, weight.shape[0]), weight)
        print(f"numbers of rows {name}: {(memory.bytes_in_use() - before) / 1e6:.0f} MB more")
    matmul.padded_rows = rounded


@contextmanager
def using(quick: bool, padded: bool) -> Iterator[None]:
    """Products by oneDNN or not, examples of many lengths padded or not."""
    before = matmul.prefers_onednn, packed_attention.SEQUENTIAL_DEVICES
    matmul.prefers_onednn = lambda: quick  # type: ignore[assignment]
    packed_attention.SEQUENTIAL_DEVICES = () if padded else ("cpu",)
    try:
        yield
    finally:
        matmul.prefers_onednn, packed_attention.SEQUENTIAL_DEVICES = before


def _steps(model: str, task: TaskSpec, batch: int) -> None:
    """Tokens a second of training steps and of scoring, by every way."""
    plan = Plan("bf16", "bf16", embedding="bf16", rank=8)
    spec = RunSpec(model, task, plan, TrainSpec(batch=batch, compute="fp32"), 0)
    start = prepare_run(spec)
    execution = Execution(residency="decoded", threads=1)
    run = build_run(start, cpu_machine(execution)).model
    examples, kind = start.data.parts["train"], start.task.kind
    trained = [collate(examples, range(i, i + batch)) for i in range(0, STEPS * batch, batch)]
    scored = [collate(examples, range(i, i + SCORED)) for i in range(0, 3 * SCORED, SCORED)]

    def step(each: Any) -> None:
        loss, count = training_loss(run, kind, each)
        (loss / count).backward()

    speeds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way, (quick, padded) in WAYS.items():
            with using(quick, padded):
                run.train()
                fast = _speed(trained, step)
                run.eval()
                speeds[way].append((fast, _speed(scored, lambda b: scores(run, kind, b))))
    print(f"\n{model} on {task.name}, tokens a second: training, scoring")
    for way, pairs in speeds.items():
        print(f"  {way:20} {median(a for a, _ in pairs):6,.0f} {median(b for _, b in pairs):6,.0f}")


def _speed(work: list[Any], do: Callable[[Any], object]) -> float:
    do(work[0])
    began = time.perf_counter()
    for each in work:
        do(each)
    return sum(sum(each.lengths) for each in work) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
