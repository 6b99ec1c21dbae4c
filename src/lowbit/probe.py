"""What a run would cost, by ten real steps of it on this machine.

Bytes at rest are exact (the ledger's); memory is the peak of the ten steps and an evaluation;
time is the median step times the steps, plus the evaluations at their measured speed.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from statistics import median

import torch

from lowbit import device as machine
from lowbit.adapt import Setting, adapt, steps_per_epoch, total_steps
from lowbit.device import PeakMemory
from lowbit.evaluate import evaluate
from lowbit.run import Prepared, hooks_of, install_run, prepare_run
from lowbit.spec import Execution, RunSpec

STEPS = 10


@dataclass(frozen=True)
class Probe:
    """Figures of one cell before it is run."""

    stored: int
    share: float
    steps: int
    step_s: float
    peak_bytes: int
    total_s: float
    compute: str
    device: str


def probe(spec: RunSpec, execution: Execution) -> Probe:
    """Ten steps and a little evaluation; nothing is written."""
    began = time.perf_counter()
    device = machine.resolve_device(execution.device)
    if execution.threads:
        torch.set_num_threads(execution.threads)
    memory = PeakMemory(device)
    compute = machine.resolve_compute(spec.train.compute, device)
    start = prepare_run(spec)
    # The tokenised data stays, whatever was needed to make it; it is no part of a run's memory.
    memory.start()
    made = install_run(spec, start, execution, device, compute)
    marks: list[float] = []
    setting = Setting(
        kind=start.task.kind,
        train=replace(spec.train, steps=STEPS),
        seed=spec.seed,
        device=device,
        hooks=hooks_of(spec.plan, made.model),
        watcher=lambda *_: marks.append(time.perf_counter()),
    )
    few = start.data.parts["selection"][: 2 * spec.train.eval_batch]
    loaded = time.perf_counter()
    adapt(made.model, {"train": start.data.parts["train"], "selection": few}, setting)
    trained = time.perf_counter()
    evaluate(made.model, few, setting.kind, spec.train.eval_batch, device)
    per_token = (time.perf_counter() - trained) / sum(len(e.ids) for e in few)
    steps = total_steps(len(start.data.parts["train"]), spec.train)
    step_s = median(b - a for a, b in zip([loaded, *marks], marks, strict=False))
    evaluated = _evaluated_tokens(spec, start, steps)
    return Probe(
        stored=made.count.stored,
        share=made.count.share,
        steps=steps,
        step_s=step_s,
        peak_bytes=max(0, memory.peak() - memory.idle),
        total_s=loaded - began + steps * step_s + evaluated * per_token,
        compute=compute,
        device=device.type,
    )


def _evaluated_tokens(spec: RunSpec, start: Prepared, steps: int) -> int:
    """Selection once an epoch and after the last step, the scored split once."""
    size = {name: sum(len(e.ids) for e in part) for name, part in start.data.parts.items()}
    epochs = math.ceil(steps / steps_per_epoch(len(start.data.parts["train"]), spec.train))
    return epochs * size["selection"] + size["scored"]
