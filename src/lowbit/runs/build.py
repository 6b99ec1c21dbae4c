"""A plan carried out on a model: sites chosen, bytes counted, packed layers installed.

Everything that needs a model as a run would have it comes here: runs, dry runs and exports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from lowbit.core.cache import cache_dir
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.schedules import Distil
from lowbit.core.spec import Choice, Plan, RunSpec, Site
from lowbit.layers.adapters import SvdAdapter
from lowbit.layers.install import Settings, adapters, install
from lowbit.models.family import find_sites
from lowbit.models.loading import (
    Checkpoint,
    load,
    skeleton,
)
from lowbit.models.weights import blank
from lowbit.plan.rules import choose
from lowbit.quant.byte_counts import Ledger, ledger, spare
from lowbit.quant.formats import is_cast, spell
from lowbit.runs import allocator, memory_check
from lowbit.runs import device as machine
from lowbit.runs.encoding_cache import Encodings
from lowbit.runs.export import peft
from lowbit.runs.prepare import Prepared, prepare_run, weights_digest
from lowbit.train import compile, losses
from lowbit.train.distillation import Distiller, room, teach
from lowbit.train.hooks import Hooks
from lowbit.train.rank_schedule import rank_hooks
from lowbit.train.ternary_hooks import ternary_hooks


@dataclass(frozen=True)
class Installed:
    """A model with its plan carried out."""

    model: nn.Module
    sites: tuple[Site, ...]
    choices: dict[str, Choice]
    count: Ledger
    other: tuple[int, int]
    """Numbers and bytes of what is no site."""
    distiller: Distiller | None = None




def install_run(
    spec: RunSpec,
    start: Prepared,
    execution: Execution,
    device: torch.device,
    compute: str,
    memory: int | None = None,
) -> Installed:
    """The model in its packed form on its device, after a check that it can be trained there.

    `memory`: what this run may take, where it is not alone on the machine.
    """
    planned = plan_sites(spec.plan, start.checkpoint, start.task.kind, len(start.data.labels))
    need = needs(spec, start, planned.count, execution, compute)
    distil = _distil(spec)
    memory_check.check(machine.free_memory(device) if memory is None else memory, need)
    distiller = _taught(spec, start, distil, device) if distil.wanted else None
    model = _carried_out(spec, start, planned, execution, device, compute)
    if execution.checkpointing:
        how = {"use_reentrant": False}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)  # type: ignore[operator]
    if execution.compile:
        compile.compile_small(model)
    return replace(planned, model=model, distiller=distiller)


def needs(
    spec: RunSpec, start: Prepared, count: Ledger, execution: Execution, compute: str
) -> memory_check.Need:
    """What a training step's memory depends on."""
    parts, shape = start.data.parts, memory_check.shape_of(start.checkpoint.config)
    return memory_check.Need(
        count=count,
        shape=shape,
        # A batch never holds more than there is.
        train=replace(spec.train, batch=min(spec.train.batch, len(parts["train"]))),
        execution=execution,
        window=max(len(e.ids) for part in parts.values() for e in part),
        item=4 if compute == "fp32" else 2,
        classes=start.task.kind == "classification",
        teacher=room(_distil(spec), parts["train"], shape.width, shape.layers, start.task.kind),
    )


def _distil(spec: RunSpec) -> Distil:
    return spec.plan.ternary.distil if spec.plan.ternary else Distil()


def _taught(spec: RunSpec, start: Prepared, distil: Distil, device: torch.device) -> Distiller:
    """The unquantised model says what it has to say, and is gone before anything is installed."""
    with allocator.sparing():
        model = load(start.checkpoint, start.task.kind).float().to(device)
        return teach(model, start.data.parts["train"], distil, spec.train.eval_batch, device)


def install_bare(
    spec: RunSpec,
    start: Prepared,
    execution: Execution,
    device: torch.device,
    compute: str,
    lent: peft.Loaded | None = None,
) -> Installed:
    """The model as the plan stores it, with no adapter or a lent one: nothing to train."""
    planned = plan_sites(spec.plan, start.checkpoint, start.task.kind, len(start.data.labels))
    fresh = next((site.name for site in planned.sites if site.fresh), None)
    if fresh is not None and lent is None:
        raise UserError(
            f"{spec.model} holds no '{fresh}': its head would be random, and so would every score. "
            "`lowbit adapt` trains one."
        )
    bare = {name: replace(choice, rank=0) for name, choice in planned.choices.items()}
    planned = replace(planned, choices=bare)
    model = _carried_out(spec, start, planned, execution, device, compute).eval()
    if lent is not None:
        peft.attach(model, lent)
    return replace(planned, model=model)


def _carried_out(
    spec: RunSpec,
    start: Prepared,
    planned: Installed,
    execution: Execution,
    device: torch.device,
    compute: str,
) -> nn.Module:
    """The model with every site stored as planned, read matrix by matrix."""
    settings = Settings(
        spec.plan, machine.TYPES[compute], spec.seed, execution.residency, execution.decoder
    )
    encodings = Encodings(cache_dir(), weights_digest(start.checkpoint))
    labels = len(start.data.labels)
    with allocator.sparing():
        model, weights = blank(start.checkpoint, start.task.kind, labels, start.pad, device)
        install(model, planned.sites, planned.choices, settings, weights, encodings)
    return model.to(device)


def plan_sites(plan: Plan, checkpoint: Checkpoint, kind: losses.Kind, labels: int) -> Installed:
    """A plan counted on a model's skeleton, nothing loaded."""
    model = skeleton(checkpoint, kind, labels)
    sites = find_sites(model, checkpoint.matrices)
    choices = choose(plan, sites)
    numbers = sum(p.numel() for p in model.parameters())
    other = spare(sites, choices, numbers)
    other_bytes = other * checkpoint.item
    count = ledger(sites, choices, other, other_bytes)
    if not count.trainable and not plan.adapter:
        raise UserError(f"plan '{plan.name}' trains nothing: give some sites a rank")
    return Installed(model, sites, choices, count, (other, other_bytes))


def hooks_of(plan: Plan, made: Installed) -> Hooks:
    """The plan's rank schedule or ternary training, and gradients' norms by depth in the log."""
    hooks = Hooks()
    if plan.schedule.kind != "fixed":
        found = {n: a for n, a in adapters(made.model).items() if isinstance(a, SvdAdapter)}
        hooks = rank_hooks(plan.schedule, found)
    hooks = replace(hooks, look=partial(gradient_norms, made.model, made.sites))
    if plan.ternary is None:
        return hooks
    return ternary_hooks(hooks, plan.ternary, made.model, made.distiller)


def gradient_norms(model: nn.Module, sites: Sequence[Site]) -> dict[str, dict[str, float]]:
    """Norm of what is trained, by depth of its site; what lies in no block by its role."""
    squares: dict[str, float] = {}
    for site in sites:
        key = site.role if site.depth is None else str(site.depth)
        for parameter in model.get_submodule(site.name).parameters():
            if parameter.grad is not None:
                squares[key] = squares.get(key, 0.0) + float(parameter.grad.square().sum())
    return {"grad_norms": {key: math.sqrt(square) for key, square in squares.items()}}






Choices = tuple[str, dict[str, str], dict[str, int]]
"""A plan's name, the formats of its sites that are not in 16 bits, and the ranks of all."""


def choices_of(spec: RunSpec) -> Choices:
    start = prepare_run(spec)
    planned = plan_sites(spec.plan, start.checkpoint, start.task.kind, len(start.data.labels))
    stored = {s.name: planned.choices[s.name] for s in planned.sites if not s.fresh}
    formats = {n: spell(choice.quant) for n, choice in stored.items() if not is_cast(choice.quant)}
    # A schedule cuts to so many directions a site, on average; which, training decides.
    schedule = spec.plan.schedule
    most = math.inf if schedule.kind == "fixed" else schedule.target
    return spec.plan.name, formats, {n: int(min(c.rank, most)) for n, c in stored.items()}
