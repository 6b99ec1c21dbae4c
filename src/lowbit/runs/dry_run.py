"""Measures what a run would cost by training ten steps (more if they are short).

Stored bytes are counted exactly. Peak memory is measured over these steps, one step on the longest
examples, and one evaluation of the longest examples. Total time is extrapolated: the run's training
tokens at the measured training speed, plus its evaluation tokens at the measured evaluation speed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from lowbit.core.execution import Execution
from lowbit.core.spec import RunSpec
from lowbit.runs.build import BuiltModel, build_run, hooks_of
from lowbit.runs.device import PeakMemory, open_machine
from lowbit.runs.prepare import Prepared, prepare_run
from lowbit.runs.run_cost import RunCost
from lowbit.tasks.base import Example
from lowbit.train.evaluate import evaluate
from lowbit.train.loop import LoopSettings, steps_per_epoch, total_steps, train_model

STEPS = 10
WARMUP_STEPS = 2
"""Steps that are not timed: they allocate memory and build tables."""
ENOUGH_SECONDS, MORE_STEPS = 3.0, 60
"""If ten steps took less than ENOUGH seconds, MORE steps are timed."""
EVALUATED = 4
"""Batches on which evaluation is timed."""
TRAINED_BYTES = 4 * 4
"""Bytes of a trained parameter: value, gradient and two optimiser moments."""


def measure_cost(spec: RunSpec, execution: Execution, timed: bool = True) -> RunCost:
    """Measure ten training steps and a short evaluation; write nothing.

    The total time includes loading, so this function prepares the run itself. Without `timed`, it
    runs only the few steps that the peak memory needs.
    """
    began, cpu = time.perf_counter(), time.process_time()
    machine = open_machine(execution, spec.train.compute)
    device = machine.device
    memory = PeakMemory(device)
    prepared = prepare_run(spec)
    # Measure memory from here on: the tokenised data does not count as a run's memory.
    memory.start()
    built = build_run(prepared, machine)
    loaded = time.perf_counter()
    kind, train = prepared.kind, prepared.data.parts["train"]
    batches = EVALUATED if timed else 1
    examples = prepared.data.parts["selection"][: batches * spec.train.eval_batch]
    pace = _pace(prepared, built, device, examples[:1], STEPS if timed else WARMUP_STEPS + 1)
    if timed and pace.seconds < ENOUGH_SECONDS:
        pace = _pace(prepared, built, device, examples[:1], MORE_STEPS)
    evaluate(built.model, examples[:1], kind, 1, device)
    evaluation_began = time.perf_counter()
    evaluate(built.model, examples, kind, spec.train.eval_batch, device)
    per_token = (time.perf_counter() - evaluation_began) / sum(len(e.ids) for e in examples)
    _longest_step(prepared, built, device)
    steps = total_steps(train, spec.train)
    tokens_per_step = sum(len(e.ids) for e in train) / steps_per_epoch(train, spec.train)
    step_s = tokens_per_step / pace.tokens_per_s
    evaluated = _evaluated_tokens(prepared, steps)
    total = loaded - began + steps * step_s + evaluated * per_token
    busy = (time.process_time() - cpu) / (time.perf_counter() - began)
    return RunCost(
        stored=built.count.stored,
        share=built.count.share,
        steps=steps,
        step_s=step_s,
        peak_bytes=max(0, memory.peak() - memory.idle),
        weights_bytes=built.count.base + built.count.other + built.count.masters,
        trained_bytes=TRAINED_BYTES * built.count.trainable,
        data_bytes=sum(
            e.ids.nbytes + e.target.nbytes for part in prepared.data.parts.values() for e in part
        ),
        tokens_per_s=round(pace.tokens_per_s, 1),
        total_s=total,
        cpu_s=total * busy,
        gpu_s=0.0 if device.type == "cpu" else total - (loaded - began),
        compute=machine.compute,
        device=device.type,
    )


@dataclass(frozen=True)
class Pace:
    """Seconds and tokens of the timed steps."""

    seconds: float
    tokens: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


def _pace(
    prepared: Prepared,
    built: BuiltModel,
    device: torch.device,
    selection: Sequence[Example],
    steps: int,
) -> Pace:
    spec = prepared.spec
    marks: list[tuple[float, int]] = []
    setting = LoopSettings(
        kind=prepared.kind,
        train=replace(spec.training, steps=steps, epochs=steps),
        seed=spec.seed,
        device=device,
        hooks=hooks_of(spec.plan, built),
        on_step=lambda _, __, tokens, ___: marks.append((time.perf_counter(), tokens)),
    )
    train_model(
        built.model, {"train": prepared.data.parts["train"], "selection": selection}, setting
    )
    (first, before), (last, after) = marks[min(WARMUP_STEPS, len(marks) - 2)], marks[-1]
    return Pace(last - first, after - before)


def _longest_step(prepared: Prepared, built: BuiltModel, device: torch.device) -> None:
    """One step and one evaluation on the longest examples: they set a run's peak memory."""
    spec = prepared.spec
    parts, size = prepared.data.parts, spec.train.batch
    ranked = {name: sorted(part, key=lambda e: -len(e.ids)) for name, part in parts.items()}
    evaluated = max(ranked["selection"], ranked["scored"], key=lambda part: len(part[0].ids))
    most = spec.train.eval_batch * len(evaluated[0].ids)
    until = 1 + next(
        (i for i, total in enumerate(accumulate(len(e.ids) for e in evaluated)) if total >= most),
        len(evaluated),
    )
    setting = LoopSettings(
        kind=prepared.kind, train=replace(spec.training, steps=1), seed=spec.seed, device=device
    )
    train_model(built.model, {"train": ranked["train"][:size], "selection": evaluated[:1]}, setting)
    evaluate(built.model, evaluated[:until], prepared.kind, spec.train.eval_batch, device)


def _evaluated_tokens(prepared: Prepared, steps: int) -> int:
    """Tokens of all evaluations: the selection split each epoch or once, the scored split once."""
    spec = prepared.spec
    size = {name: sum(len(e.ids) for e in part) for name, part in prepared.data.parts.items()}
    each = steps_per_epoch(prepared.data.parts["train"], spec.train)
    epochs = math.ceil(steps / each) if spec.train.select == "epoch" else 1
    return epochs * size["selection"] + size["scored"]
