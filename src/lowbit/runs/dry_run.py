"""What a run would cost, by ten real steps of it on this machine (more where they are short).

Bytes at rest are exact (the ledger's); memory is the peak of these steps, of a step and of an
evaluation of the longest examples there are; time is the tokens of the run at their measured
speed, and those of its evaluations at theirs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from lowbit.runs import device as machine
from lowbit.core.execution import Execution
from lowbit.core.spec import RunSpec
from lowbit.runs.device import PeakMemory
from lowbit.runs.prepare import (Prepared, prepare_run)
from lowbit.runs.build import (Installed, hooks_of, install_run)
from lowbit.tasks.base import Example
from lowbit.train.evaluate import evaluate
from lowbit.train.loop import Setting, adapt, steps_per_epoch, total_steps

STEPS = 10
WARM = 2
"""Steps that are not timed: memory is taken for the first time, tables are made."""
ENOUGH, MORE = 3.0, 60
"""If ten steps took fewer seconds, so many steps more."""
EVALUATED = 4
"""Batches' worth of examples that evaluation is timed on."""
NUMBERS = 4 * 4
"""Bytes of a trained number: itself, its gradient and two moments."""


@dataclass(frozen=True)
class Probe:
    """Figures of one cell before it is run."""

    stored: int
    share: float
    steps: int
    step_s: float
    peak_bytes: int
    weights_bytes: int
    """Of the peak: the model as it is stored, by the ledger."""
    trained_bytes: int
    """Of the peak: adapters and heads with their gradients and moments."""
    data_bytes: int
    """Beside the peak: the tokenised data."""
    tokens_per_s: float
    total_s: float
    cpu_s: float
    gpu_s: float
    compute: str
    device: str


def probe(spec: RunSpec, execution: Execution, timed: bool = True) -> Probe:
    """Ten steps and a little evaluation; nothing is written. For memory alone, few steps do."""
    began, cpu = time.perf_counter(), time.process_time()
    device, compute = machine.set_up(execution, spec.train.compute)
    memory = PeakMemory(device)
    start = prepare_run(spec)
    # The tokenised data stays, whatever was needed to make it; it is no part of a run's memory.
    memory.start()
    made = install_run(spec, start, execution, device, compute)
    loaded = time.perf_counter()
    kind, train = start.task.kind, start.data.parts["train"]
    batches = EVALUATED if timed else 1
    few = start.data.parts["selection"][: batches * spec.train.eval_batch]
    pace = _pace(spec, start, made, device, few[:1], STEPS if timed else WARM + 1)
    if timed and pace.seconds < ENOUGH:
        pace = _pace(spec, start, made, device, few[:1], MORE)
    evaluate(made.model, few[:1], kind, 1, device)
    began_looking = time.perf_counter()
    evaluate(made.model, few, kind, spec.train.eval_batch, device)
    per_token = (time.perf_counter() - began_looking) / sum(len(e.ids) for e in few)
    _heaviest(spec, start, made, device)
    steps = total_steps(train, spec.train)
    a_step = sum(len(e.ids) for e in train) / steps_per_epoch(train, spec.train)
    step_s = a_step / pace.tokens_per_s
    evaluated = _evaluated_tokens(spec, start, steps)
    total = loaded - began + steps * step_s + evaluated * per_token
    busy = (time.process_time() - cpu) / (time.perf_counter() - began)
    return Probe(
        stored=made.count.stored,
        share=made.count.share,
        steps=steps,
        step_s=step_s,
        peak_bytes=max(0, memory.peak() - memory.idle),
        weights_bytes=made.count.base + made.count.other + made.count.masters,
        trained_bytes=NUMBERS * made.count.trainable,
        data_bytes=sum(
            e.ids.nbytes + e.target.nbytes for part in start.data.parts.values() for e in part
        ),
        tokens_per_s=round(pace.tokens_per_s, 1),
        total_s=total,
        cpu_s=total * busy,
        gpu_s=0.0 if device.type == "cpu" else total - (loaded - began),
        compute=compute,
        device=device.type,
    )


@dataclass(frozen=True)
class Pace:
    """Seconds and tokens of some steps, the first ones left out."""

    seconds: float
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


def _pace(
    spec: RunSpec,
    start: Prepared,
    made: Installed,
    device: torch.device,
    selection: Sequence[Example],
    steps: int,
) -> Pace:
    marks: list[tuple[float, int]] = []
    setting = Setting(
        kind=start.task.kind,
        train=replace(spec.training, steps=steps, epochs=steps),
        seed=spec.seed,
        device=device,
        hooks=hooks_of(spec.plan, made),
        watcher=lambda _, __, tokens, ___: marks.append((time.perf_counter(), tokens)),
    )
    adapt(made.model, {"train": start.data.parts["train"], "selection": selection}, setting)
    (first, before), (last, after) = marks[min(WARM, len(marks) - 2)], marks[-1]
    return Pace(last - first, after - before)


def _heaviest(spec: RunSpec, start: Prepared, made: Installed, device: torch.device) -> None:
    """A step and an evaluation over the longest examples: what the peak of a run is made of."""
    parts, size = start.data.parts, spec.train.batch
    ranked = {name: sorted(part, key=lambda e: -len(e.ids)) for name, part in parts.items()}
    looked_at = max(ranked["selection"], ranked["scored"], key=lambda part: len(part[0].ids))
    most = spec.train.eval_batch * len(looked_at[0].ids)
    until = 1 + next(
        (i for i, held in enumerate(accumulate(len(e.ids) for e in looked_at)) if held >= most),
        len(looked_at),
    )
    setting = Setting(
        kind=start.task.kind, train=replace(spec.training, steps=1), seed=spec.seed, device=device
    )
    adapt(made.model, {"train": ranked["train"][:size], "selection": looked_at[:1]}, setting)
    evaluate(made.model, looked_at[:until], start.task.kind, spec.train.eval_batch, device)


def _evaluated_tokens(spec: RunSpec, start: Prepared, steps: int) -> int:
    """Selection as often as it is looked at, the scored split once."""
    size = {name: sum(len(e.ids) for e in part) for name, part in start.data.parts.items()}
    each = steps_per_epoch(start.data.parts["train"], spec.train)
    epochs = math.ceil(steps / each) if spec.train.select == "epoch" else 1
    return epochs * size["selection"] + size["scored"]
