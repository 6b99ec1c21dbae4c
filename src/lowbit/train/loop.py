"""The one training loop.

It trains every parameter with `requires_grad`. Pretraining the demo's model, LoRA on a packed base
and rank schedules all use it. The data order is a pure function of (seed, epoch), so the step
number is enough to resume. A run that is killed at any moment and resumed gives the same results,
to the bit, as one that is not interrupted.

    for each step:  collate a window of batches -> loss / labels in the window -> backward
                    clip -> AdamW with warm-up and cosine -> hooks
    each epoch:     score the selection split, save the best state

The loss of a window is divided by the number of labels in the window, so gradient accumulation
changes only memory. Penalties, such as that of a rank schedule, are added to the training loss and
not to the logged one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowbit.core.progress import StepCallback, ignore_step
from lowbit.core.spec import TrainSpec
from lowbit.tasks.base import Batch, Example
from lowbit.tasks.batching import (
    batches,
    by_length,
    collate,
    epoch_order,
    nth_slice,
    split_by_tokens,
)
from lowbit.train import checkpoint, gradient_noise
from lowbit.train.checkpoint import Position
from lowbit.train.evaluate import evaluate, ratio, to_device
from lowbit.train.hooks import Hooks
from lowbit.train.log import Clock, Clocks, Log
from lowbit.train.losses import Kind, training_loss
from lowbit.train.state import TrainState

Parts = Mapping[str, Sequence[Example]]


@dataclass(frozen=True)
class LoopSettings:
    """The loop's inputs besides the model and the data."""

    kind: Kind
    train: TrainSpec
    seed: int
    device: torch.device
    fingerprint: str = ""
    log: Path | None = None
    checkpoint: Path | None = None
    hooks: Hooks = Hooks()  # noqa: RUF009
    on_step: StepCallback = ignore_step
    clock: Clock = time.perf_counter
    checkpoint_every: float = 30.0


@dataclass(frozen=True)
class TrainOutcome:
    """The end of a training: its position, the number of steps, and why it diverged, if it did."""

    position: Position
    total: int
    diverged: str = ""


def steps_per_epoch(part: Sequence[Example], train: TrainSpec) -> int:
    if train.token_budget:
        lengths = [len(example.ids) for example in part]
        # A step holds at least the longest example, so that no step is empty.
        least = max(train.token_budget * train.accumulate, *lengths)
        return max(1, sum(lengths) // least)
    return math.ceil(math.ceil(len(part) / train.batch) / train.accumulate)


def total_steps(part: Sequence[Example], train: TrainSpec) -> int:
    """`epochs`, capped by `steps` where that is not 0."""
    total = train.epochs * steps_per_epoch(part, train)
    return min(total, train.steps) if train.steps else total


def learning_rate(step: int, total: int, train: TrainSpec) -> float:
    """Linear warm-up to `lr`, then half a cosine down; `step` counts from 0."""
    warm = train.warm_steps(total)
    if step < warm:
        return train.lr * (step + 1) / warm
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def window(part: Sequence[Example], step: int, setting: LoopSettings) -> list[Batch]:
    """The batches of one optimiser step; examples of similar length share a batch."""
    train, per_epoch = setting.train, steps_per_epoch(part, setting.train)
    order = epoch_order(len(part), setting.seed, step // per_epoch)
    if train.token_budget:
        examples = nth_slice(part, order, step % per_epoch, per_epoch)
        cuts = split_by_tokens(part, train.token_budget, by_length(part, examples))
        return [collate(part, cut) for cut in cuts]
    size = train.batch * train.accumulate
    start = step % per_epoch * size
    return list(batches(part, train.batch, by_length(part, order[start : start + size])))


def train_model(model: nn.Module, parts: Parts, setting: LoopSettings) -> TrainOutcome:
    """Train, or continue from the checkpoint. The model ends with its best or last parameters."""
    torch.manual_seed(setting.seed)
    fresh = Position(setting.fingerprint)
    state = TrainState(model, setting.train, setting.hooks, fresh, setting.device)
    log = Log(setting.log)
    saved = setting.checkpoint and checkpoint.read(setting.checkpoint, setting.fingerprint)
    # If the log is shorter than the checkpoint expects, training starts again from the first step.
    if saved and saved[0].log_bytes <= log.size:
        state.load(*saved)
    clocks = Clocks(state.position, setting.clock)
    log.cut(state.position.log_bytes)
    model.train()
    per_epoch = steps_per_epoch(parts["train"], setting.train)
    total = total_steps(parts["train"], setting.train)
    message = ""
    while state.position.step < total and not message:
        began = setting.clock()
        loss, norm, entries = _step(model, parts["train"], state, setting, total)
        clocks.train_s += setting.clock() - began
        setting.on_step(state.position.step, total, state.position.tokens, loss)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            _write_step(state, setting, log, clocks, total, per_epoch, norm, entries)
            if _selects(setting.train, state.position.step, total, per_epoch):
                finite = _select(model, parts["selection"], state, setting, log, total, per_epoch)
        if not finite:
            what = "gradient" if math.isfinite(loss) and not math.isfinite(norm) else "loss"
            message = f"the {what} is no longer finite at step {state.position.step} of {total}"
            log.write({"step": state.position.step, "diverged": message})
        elif setting.checkpoint and clocks.due(setting.checkpoint_every):
            state.position = replace(clocks.stamp(state.position), log_bytes=log.size)
            checkpoint.write(setting.checkpoint, state.position, state.tensors())
    if setting.train.keep == "best" and state.best:
        state.restore_best()
    return TrainOutcome(clocks.stamp(state.position), total, message)


def _selects(train: TrainSpec, step: int, total: int, per_epoch: int) -> bool:
    """Whether the selection split is scored after this step: each epoch, or only at the end."""
    return step == total or (train.select == "epoch" and step % per_epoch == 0)


def _step(
    model: nn.Module, part: Sequence[Example], state: TrainState, setting: LoopSettings, total: int
) -> tuple[float, float, dict[str, Any]]:
    """One optimiser step: (mean loss per label, gradient norm, entries for the log)."""
    if setting.hooks.before_step is not None:
        setting.hooks.before_step(state.position.step, total)
    step_batches = window(part, state.position.step, setting)
    loss_of = setting.hooks.loss or training_loss
    labels = sum(sum(batch.labels) for batch in step_batches)
    losses = []
    for batch in step_batches:
        loss, _ = loss_of(model, setting.kind, to_device(batch, setting.device))
        (loss / labels).backward()
        losses.append(loss.detach().float())
    if setting.hooks.penalty is not None:
        setting.hooks.penalty().backward()
    look = setting.hooks.look if _logs(state.position.step + 1, total, setting) else None
    entries = look() if look is not None else {}
    norm = nn.utils.clip_grad_norm_(state.named.values(), setting.train.clip or math.inf)
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(state.position.step, total, setting.train)
    state.optimiser.step()
    if setting.hooks.after_step is not None:
        setting.hooks.after_step(state.position.step + 1, total)
    state.optimiser.zero_grad(set_to_none=True)
    # One transfer from the device per step.
    *parts, size = torch.stack([*losses, norm.float()]).tolist()
    summed = math.fsum(parts)
    state.position = replace(
        state.position,
        step=state.position.step + 1,
        tokens=state.position.tokens + sum(len(batch.ids) for batch in step_batches),
        recent_loss=state.position.recent_loss + summed,
        recent_labels=state.position.recent_labels + labels,
        recent_squares=state.position.recent_squares + size**2,
        recent_steps=state.position.recent_steps + 1,
    )
    return summed / labels, size, entries


def _logs(step: int, total: int, setting: LoopSettings) -> bool:
    """Whether this step writes a line to the log."""
    return step % setting.train.log_every == 0 or step == total


def _write_step(
    state: TrainState,
    setting: LoopSettings,
    log: Log,
    clocks: Clocks,
    total: int,
    per_epoch: int,
    norm: float,
    entries: dict[str, Any],
) -> None:
    """Every `log_every` steps, write a line with the mean loss since the last line."""
    position = state.position
    if not _logs(position.step, total, setting):
        return
    # The share of noise times the mean squared norm of unclipped gradients since the last line.
    variance = state.noise_share() * position.recent_squares / position.recent_steps
    position, times = gradient_noise.add_log_line(
        position, variance, setting.train.warm_steps(total)
    )
    rising = times > gradient_noise.NOISIER and not position.warned
    log.write(
        {
            "step": position.step,
            "epoch": round(position.step / per_epoch, 4),
            "loss": position.recent_loss / position.recent_labels,
            "grad_norm": norm,
            "grad_variance": variance,
            "lr": learning_rate(position.step - 1, total, setting.train),
            "tokens": position.tokens,
            "tokens_per_s": round(position.tokens / max(clocks.train_s, 1e-9), 1),
            **({"warning": gradient_noise.warning(times)} if rising else {}),
            **entries,
        }
    )
    state.position = replace(
        position,
        recent_loss=0.0,
        recent_labels=0,
        recent_squares=0.0,
        recent_steps=0,
        warned=position.warned or rising,
    )


def _select(
    model: nn.Module,
    part: Sequence[Example],
    state: TrainState,
    setting: LoopSettings,
    log: Log,
    total: int,
    per_epoch: int,
) -> bool:
    """Score the selection split and save the state if it is the best. False: not finite."""
    size = setting.train.eval_batch
    example_scores, loss = evaluate(model, part, setting.kind, size, setting.device)
    value, best, step = ratio(example_scores), state.position.best_value, state.position.step
    if not (math.isfinite(value) and math.isfinite(loss)):
        return False
    settled = setting.hooks.settled is None or setting.hooks.settled(step, total)
    better = best is None or (value < best if setting.kind == "language" else value > best)
    if settled and better:
        state.keep_as_best()
        state.position = replace(state.position, best_value=value, best_step=step)
    log.write({"step": step, "epoch": round(step / per_epoch, 4), "selection": value})
    return True
