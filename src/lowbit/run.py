"""One run's story: find, prepare, load, choose, install, adapt, score, record.

The only module that knows all the layers; the command line, the engines and the research loop
call `run` and nothing below it.
"""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lowbit import device as machine
from lowbit import losses, preflight
from lowbit.account import bytes_of, cost, site_records
from lowbit.adalora import Hooks, rank_hooks
from lowbit.adapt import Outcome, Setting, adapt
from lowbit.demo import model_folder
from lowbit.device import PeakMemory
from lowbit.errors import UserError
from lowbit.evaluate import Found, evaluate, ratio
from lowbit.export import peft
from lowbit.files import digest, write_lines
from lowbit.install import Settings, adapters, install
from lowbit.layers import SvdAdapter
from lowbit.models.family import find_sites
from lowbit.models.loading import (
    Checkpoint,
    load,
    max_length,
    open_checkpoint,
    skeleton,
    tokenizer_of,
)
from lowbit.plan.rules import choose
from lowbit.progress import Watcher, nobody
from lowbit.quant.formats import spell
from lowbit.quant.ledger import Ledger, ledger, spare
from lowbit.record import ADAPTER, CHECKPOINT, LOG, RECORD, SCORES, Record, finish, resumable
from lowbit.spec import Choice, Execution, Plan, RunSpec, Site
from lowbit.tasks.base import Data, Task
from lowbit.tasks.cache import cache_dir
from lowbit.tasks.prepare import find, prepare


@dataclass(frozen=True)
class Prepared:
    """What a run starts from: a model on disk, and data cut for it."""

    checkpoint: Checkpoint
    task: Task
    data: Data
    pad: int


@dataclass(frozen=True)
class Installed:
    """A model with its plan carried out."""

    model: nn.Module
    sites: tuple[Site, ...]
    choices: dict[str, Choice]
    count: Ledger
    other: tuple[int, int]
    """Numbers and bytes of what is no site."""


def run(
    spec: RunSpec,
    folder: Path,
    execution: Execution,
    timed: Literal["alone", "shared"] = "alone",
    watcher: Watcher = nobody,
) -> Record:
    """Carry out one run, or the rest of it, and leave its record in `folder`."""
    device = machine.resolve_device(execution.device)
    if execution.threads:
        torch.set_num_threads(execution.threads)
    memory = PeakMemory(device)
    compute = machine.resolve_compute(spec.train.compute, device)
    _clear(folder)
    start = prepare_run(spec)
    # The tokenised data stays, whatever was needed to make it; it is no part of a run's memory.
    memory.start()
    made = install_run(spec, start, execution, device, compute)
    weights, data = weights_digest(start.checkpoint), start.data
    facts = machine.facts(
        device, compute, execution.residency, data.fingerprint, weights, data.notes
    )
    setting = Setting(
        kind=start.task.kind,
        train=spec.train,
        seed=spec.seed,
        device=device,
        fingerprint=resumable(spec, facts),
        log=folder / LOG,
        checkpoint=folder / CHECKPOINT,
        hooks=hooks_of(spec.plan, made.model),
        watcher=watcher,
        checkpoint_every=_checkpoint_every(),
    )
    outcome = adapt(made.model, start.data.parts, setting)
    metrics, ranks = {}, {s.name: made.choices[s.name].rank for s in made.sites}
    if not outcome.diverged:
        metrics = _score(made.model, start, setting, outcome, folder)
    if metrics:
        ranks = _write_adapter(spec, start, made, folder)
    trained = sum(p.numel() for p in made.model.parameters() if p.requires_grad)
    record = Record(
        status="done" if metrics else "diverged",
        fingerprint=spec.fingerprint,
        spec=spec.declared(),
        metric=start.task.metric,
        better=start.task.better,
        metrics=metrics,
        bytes=bytes_of(made.sites, made.choices, ranks, made.other),
        trainable=trained,
        parameters=made.count.parameters,
        sites=site_records(made.sites, made.choices, ranks),
        facts=facts,
        cost=cost(outcome.position, memory, timed),
        message=outcome.diverged or ("" if metrics else "the scored split's loss is not finite"),
    )
    finished = finish(folder, record)
    _tidy(folder)
    return finished


def _checkpoint_every() -> float:
    """Seconds between checkpoints; tests that kill runs want them often."""
    said = os.environ.get("LOWBIT_CHECKPOINT_EVERY", "30")
    try:
        return float(said)
    except ValueError:
        raise UserError(f"LOWBIT_CHECKPOINT_EVERY={said}: expected seconds, like 30") from None


def _tidy(folder: Path) -> None:
    """A finished run needs no checkpoint, nor what a kill left half written."""
    for rest in (folder / CHECKPOINT, *folder.glob("*.partial")):
        rest.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """What an earlier run left in the folder: a diverged one must not seem to have its scores."""
    (folder / RECORD).unlink(missing_ok=True)
    (folder / SCORES).unlink(missing_ok=True)
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)


def prepare_run(spec: RunSpec) -> Prepared:
    """The model's folder, the task's data tokenised for it."""
    checkpoint = open_checkpoint(model_folder(spec.model))
    tokenizer = tokenizer_of(checkpoint.folder)
    task = find(spec.task.name, spec.task)
    data = prepare(spec.task, tokenizer, max_length(checkpoint.config), cache_dir())
    pad = tokenizer.pad_token_id
    return Prepared(checkpoint, task, data, tokenizer.eos_token_id or 0 if pad is None else pad)


def install_run(
    spec: RunSpec, start: Prepared, execution: Execution, device: torch.device, compute: str
) -> Installed:
    """The model in its packed form on its device, after a check that it can be trained there."""
    planned = plan_sites(spec.plan, start.checkpoint, start.task.kind, len(start.data.labels))
    # A batch never holds more than there is.
    most = min(spec.train.batch, len(start.data.parts["train"]))
    longest = max(len(e.ids) for part in start.data.parts.values() for e in part)
    preflight.check(
        machine.free_memory(device),
        _kept_decoded(planned.count) if execution.residency == "decoded" else planned.count,
        preflight.shape_of(start.checkpoint.config),
        replace(spec.train, batch=most),
        longest,
        2 if compute == "bf16" else 4,
        classes=start.task.kind == "classification",
    )
    model = load(start.checkpoint, start.task.kind, len(start.data.labels), start.pad)
    settings = Settings(spec.plan, machine.TYPES[compute], spec.seed, execution.residency)
    install(model, planned.sites, planned.choices, settings)
    return replace(planned, model=model.to(device))


def _kept_decoded(count: Ledger) -> Ledger:
    """With residency = decoded every matrix is kept decoded, not one at a time."""
    return replace(count, largest_decoded=4 * count.parameters)


def plan_sites(plan: Plan, checkpoint: Checkpoint, kind: losses.Kind, labels: int) -> Installed:
    """A plan counted on a model's skeleton, nothing loaded."""
    model = skeleton(checkpoint, kind, labels)
    sites = find_sites(model, checkpoint.matrices)
    choices = choose(plan, sites)
    numbers = sum(p.numel() for p in model.parameters())
    other = spare(sites, choices, numbers)
    other_bytes = other * checkpoint.item
    count = ledger(sites, choices, other, other_bytes)
    if not count.trainable:
        raise UserError(f"plan '{plan.name}' trains nothing: give some sites a rank")
    return Installed(model, sites, choices, count, (other, other_bytes))


def hooks_of(plan: Plan, model: nn.Module) -> Hooks:
    if plan.schedule.kind == "fixed":
        return Hooks()
    found = {n: a for n, a in adapters(model).items() if isinstance(a, SvdAdapter)}
    return rank_hooks(plan.schedule, found)


def _score(
    model: nn.Module, start: Prepared, setting: Setting, outcome: Outcome, folder: Path
) -> dict[str, float]:
    """Read the scored split, once; no metrics at all where a score is not finite."""
    part, size = start.data.parts["scored"], setting.train.eval_batch
    found, loss = evaluate(model, part, setting.kind, size, setting.device)
    value = ratio(found)
    if not all(map(math.isfinite, (value, loss, *(s for s, _ in found)))):
        return {}
    write_lines(folder / SCORES, _score_lines(start, found))
    metrics: dict[str, float] = {start.task.metric: value, "loss": loss}
    if setting.kind == "language":
        words = sum(example.words for example in part)
        a_word = sum(s for s, _ in found) / max(1, words)
        # A loss can be finite while its exponential is no number any more.
        nats = {"perplexity": value, "word_perplexity": a_word}
        metrics |= {name: math.exp(nat) for name, nat in nats.items() if nat < 700}
    if outcome.position.best_value is not None:
        metrics["selection"] = outcome.position.best_value
        metrics["best_step"] = float(outcome.position.best_step)
    return metrics


def _score_lines(start: Prepared, found: Found) -> list[dict[str, Any]]:
    return [
        {"example": i, "document": example.document, "sum": s, "count": c, "words": example.words}
        for i, (example, (s, c)) in enumerate(zip(start.data.parts["scored"], found, strict=True))
    ]


def _write_adapter(spec: RunSpec, start: Prepared, made: Installed, folder: Path) -> dict[str, int]:
    origin = peft.Origin(
        model=spec.model,
        fingerprint=spec.fingerprint,
        formats={name: spell(choice.quant) for name, choice in made.choices.items()},
        conv1d=start.checkpoint.config.model_type == "gpt2",
    )
    ranks = peft.write(folder / ADAPTER, made.model, start.task.kind, origin)
    return {site.name: ranks.get(site.name, 0) for site in made.sites}


def weights_digest(checkpoint: Checkpoint) -> str:
    """The checkpoint's weights, so that records on different ones are never compared."""
    found = [digest(path)[:16] for path in sorted(checkpoint.folder.glob("*.safetensors"))]
    return "+".join(found)
