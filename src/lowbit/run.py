"""One run's story: find, prepare, load, choose, install, adapt, score, record.

The only module that knows all the layers; the command line, the engines and the research loop
call `run` and nothing below it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lowbit import device as machine
from lowbit import losses, preflight
from lowbit.adalora import Hooks, rank_hooks
from lowbit.adapt import Outcome, Setting, Watcher, adapt, nobody
from lowbit.config import check
from lowbit.demo import model_folder
from lowbit.device import PeakMemory
from lowbit.errors import UserError
from lowbit.evaluate import Found, evaluate, ratio
from lowbit.export import peft, plain
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
from lowbit.quant.formats import spell
from lowbit.quant.ledger import Ledger, ledger, stored
from lowbit.record import (
    ADAPTER,
    LOG,
    RECORD,
    SCORES,
    Bytes,
    Cost,
    Record,
    SiteRecord,
    digest,
    finish,
    write_lines,
)
from lowbit.spec import Choice, Execution, Plan, RunSpec, Site
from lowbit.tasks.base import Data, Task
from lowbit.tasks.cache import cache_dir
from lowbit.tasks.prepare import find, prepare

CHECKPOINT = "checkpoint.safetensors"


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
    memory.start()
    compute = machine.resolve_compute(spec.train.compute, device)
    (folder / RECORD).unlink(missing_ok=True)
    start = prepare_run(spec)
    memory.reset()
    made = install_run(spec, start, execution, device, compute)
    setting = Setting(
        kind=start.task.kind,
        train=spec.train,
        seed=spec.seed,
        pad=start.pad,
        device=device,
        fingerprint=spec.fingerprint,
        log=folder / LOG,
        checkpoint=folder / CHECKPOINT,
        hooks=hooks_of(spec.plan, made.model),
        watcher=watcher,
    )
    outcome = adapt(made.model, start.data.parts, setting)
    metrics, ranks = {}, {s.name: made.choices[s.name].rank for s in made.sites}
    if not outcome.diverged:
        metrics = _score(made.model, start, setting, outcome, folder)
        ranks = _write_adapter(spec, start, made, folder)
    facts = machine.facts(
        device,
        compute,
        execution.residency,
        start.data.fingerprint,
        weights_digest(start.checkpoint),
        start.data.notes,
    )
    record = Record(
        status="diverged" if outcome.diverged else "done",
        fingerprint=spec.fingerprint,
        spec=spec.declared(),
        metric=start.task.metric,
        better=start.task.better,
        metrics=metrics,
        bytes=_bytes(made, ranks),
        trainable=made.count.trainable,
        parameters=made.count.parameters,
        sites=_site_records(made, ranks),
        facts=facts,
        cost=_cost(outcome, memory, timed),
        message=outcome.diverged,
    )
    finished = finish(folder, record)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return finished


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
    longest = max(len(e.ids) for part in start.data.parts.values() for e in part)
    preflight.check(
        machine.free_memory(device),
        planned.count,
        preflight.shape_of(start.checkpoint.config, *planned.other),
        spec.train,
        longest,
        2 if compute == "bf16" else 4,
        classes=start.task.kind == "classification",
    )
    model = load(start.checkpoint, start.task.kind, len(start.data.labels), start.pad)
    settings = Settings(spec.plan, machine.TYPES[compute], spec.seed, execution.residency)
    install(model, planned.sites, planned.choices, settings)
    return replace(planned, model=model.to(device))


def plan_sites(plan: Plan, checkpoint: Checkpoint, kind: losses.Kind, labels: int) -> Installed:
    """A plan counted on a model's skeleton, nothing loaded."""
    model = skeleton(checkpoint, kind, labels)
    sites = find_sites(model, checkpoint.matrices)
    choices = choose(plan, sites)
    numbers = sum(p.numel() for p in model.parameters())
    other = numbers - sum(s.shape[0] * s.shape[1] for s in sites)
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
    """Read the scored split, once."""
    part, size = start.data.parts["scored"], setting.train.eval_batch
    found, loss = evaluate(model, part, setting.kind, size, setting.pad, setting.device)
    write_lines(folder / SCORES, _score_lines(start, found))
    value = ratio(found)
    metrics = {start.task.metric: value, "loss": loss}
    if setting.kind == "language":
        words = sum(example.words for example in part)
        metrics |= {
            "perplexity": math.exp(value),
            "word_perplexity": math.exp(sum(s for s, _ in found) / max(1, words)),
        }
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
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    origin = peft.Origin(
        model=spec.model,
        fingerprint=spec.fingerprint,
        formats={name: spell(choice.quant) for name, choice in made.choices.items()},
        conv1d=start.checkpoint.config.model_type == "gpt2",
    )
    ranks = peft.write(folder / ADAPTER, made.model, start.task.kind, origin)
    return {site.name: ranks.get(site.name, 0) for site in made.sites}


def _bytes(made: Installed, ranks: Mapping[str, int]) -> Bytes:
    """The ledger with the ranks that are left."""
    final = {n: replace(c, rank=ranks[n]) for n, c in made.choices.items()}
    count = ledger(made.sites, final, *made.other)
    return Bytes(count.stored, count.base, count.other, count.adapters)


def _site_records(made: Installed, ranks: Mapping[str, int]) -> tuple[SiteRecord, ...]:
    return tuple(
        SiteRecord(
            site.name,
            site.role,
            site.depth,
            site.shape,
            spell(made.choices[site.name].quant),
            made.choices[site.name].rank,
            ranks[site.name],
            made.choices[site.name].base,
            stored(made.choices[site.name].quant, site.shape).total,
        )
        for site in made.sites
    )


def _cost(outcome: Outcome, memory: PeakMemory, timed: Literal["alone", "shared"]) -> Cost:
    spent = outcome.position
    return Cost(
        wall_s=round(spent.wall_s, 3),
        cpu_s=round(spent.cpu_s, 3),
        gpu_s=0.0 if memory.device.type == "cpu" else round(spent.train_s, 3),
        peak_bytes=max(0, memory.peak() - memory.idle),
        idle_bytes=memory.idle,
        tokens=spent.tokens,
        tokens_per_s=round(spent.tokens / max(spent.train_s, 1e-9), 1),
        timed=timed,
    )


def export_plain(folder: Path, to: Path, merge: bool, declared: dict[str, Any]) -> None:
    """Write a finished run's decoded base, or base and adapter merged, as a plain model folder."""
    spec = check(RunSpec, declared, None)
    start = prepare_run(spec)
    made = install_run(spec, start, Execution(), torch.device("cpu"), "fp32")
    peft.attach(made.model, peft.read(folder / ADAPTER))
    labels, kind = len(start.data.labels), start.task.kind
    model = plain.plain(
        made.model, made.sites, start.checkpoint, kind, labels, start.pad, merge=merge
    )
    plain.save(model, start.checkpoint, to)


def weights_digest(checkpoint: Checkpoint) -> str:
    """The checkpoint's weights, so that records on different ones are never compared."""
    found = [digest(path)[:16] for path in sorted(checkpoint.folder.glob("*.safetensors"))]
    return "+".join(found)
