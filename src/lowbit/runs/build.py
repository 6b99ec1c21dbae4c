"""Builds a plan's model: chooses formats and ranks, counts bytes, installs packed layers.

Runs, dry runs, scores of untrained models and exports all build their models here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from lowbit.core.cache import cache_dir
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.progress import phases
from lowbit.core.schedules import Distil
from lowbit.core.spec import Choice, Plan, RunSpec, Site
from lowbit.layers.adapters import SvdAdapter
from lowbit.layers.install import LayerSettings, adapters, install
from lowbit.models import lean_blocks
from lowbit.models.checkpoint import Checkpoint
from lowbit.models.family import find_sites
from lowbit.models.loading import load
from lowbit.models.skeleton import skeleton
from lowbit.models.weights import blank
from lowbit.plan.rules import choose
from lowbit.quant.byte_counts import ByteCount, count_bytes, other_parameters
from lowbit.quant.formats import is_cast, spell
from lowbit.runs import allocator, memory_check
from lowbit.runs.device import Machine
from lowbit.runs.encoding_cache import Encodings
from lowbit.runs.export import peft
from lowbit.runs.prepare import Prepared, weights_digest
from lowbit.runs.rounding.round_model import round_sites
from lowbit.runs.rounding.rounded_sites import RoundedSite
from lowbit.train import compile, losses
from lowbit.train.distillation import Distiller, run_teacher, teacher_nbytes
from lowbit.train.hooks import Hooks
from lowbit.train.rank_schedule import rank_hooks
from lowbit.train.ternary_hooks import ternary_hooks

SiteChoices = tuple[str, dict[str, str], dict[str, int]]
"""A plan's name, formats by site (those below 16 bits), and ranks by site."""


@dataclass(frozen=True)
class BuiltModel:
    """A model with its sites, the plan's choice for each, and their bytes."""

    model: nn.Module
    sites: tuple[Site, ...]
    choices: dict[str, Choice]
    count: ByteCount
    other: tuple[int, int]
    """Parameters outside all sites, and their bytes."""
    distiller: Distiller | None = None


def build_run(prepared: Prepared, machine: Machine) -> BuiltModel:
    """Build the quantised model on its device; raise first if a training step does not fit."""
    spec = prepared.spec
    planned = planned_sites(prepared)
    memory = memory_inputs(prepared, planned.count, machine.execution, machine.compute)
    memory_check.check_memory(machine.free_memory, memory)
    distil = _distil(spec)
    distiller = _distiller(prepared, distil, machine.device) if distil.enabled else None
    model = _stored_model(prepared, planned, machine)
    if machine.execution.checkpointing:
        options = {"use_reentrant": False}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)  # type: ignore[operator]
    if machine.execution.compile:
        compile.compile_small(model)
    else:
        lean_blocks.use(model)
    return replace(planned, model=model, distiller=distiller)


def build_untrained(
    prepared: Prepared, machine: Machine, adapter: peft.PeftAdapter | None = None
) -> BuiltModel:
    """Build the quantised model without trainable parameters, with an adapter if one is given."""
    planned = planned_sites(prepared)
    head = next((site.name for site in planned.sites if site.fresh), None)
    if head is not None and adapter is None:
        raise UserError(
            f"{prepared.spec.model} has no '{head}': a new head would be random, and so would "
            "every score. `lowbit adapt` trains one."
        )
    without_ranks = {name: replace(choice, rank=0) for name, choice in planned.choices.items()}
    planned = replace(planned, choices=without_ranks)
    model = _stored_model(prepared, planned, machine).eval()
    if adapter is not None:
        peft.attach(model, adapter)
    return replace(planned, model=model)


def planned_sites(prepared: Prepared) -> BuiltModel:
    """The plan's choices and bytes for the model of a prepared run; loads no weights."""
    return plan_sites(prepared.spec.plan, prepared.checkpoint, prepared.kind, prepared.labels)


def plan_sites(plan: Plan, checkpoint: Checkpoint, kind: losses.Kind, labels: int) -> BuiltModel:
    """The plan's choices and bytes for a checkpoint, without prepared data; loads no weights."""
    model = skeleton(checkpoint, kind, labels)
    sites = find_sites(model, checkpoint.matrices)
    choices = choose(plan, sites, checkpoint.stored)
    numbers = sum(p.numel() for p in model.parameters())
    other = other_parameters(sites, choices, numbers)
    other_bytes = other * checkpoint.item
    count = count_bytes(sites, choices, other, other_bytes)
    if not count.trainable and not plan.adapter:
        raise UserError(f"plan '{plan.name}' trains nothing: give some sites a rank")
    return BuiltModel(model, sites, choices, count, (other, other_bytes))


def site_choices(prepared: Prepared) -> SiteChoices:
    """The plan's formats and ranks at each site of this model."""
    plan, planned = prepared.spec.plan, planned_sites(prepared)
    if any(choice.rounding != "nearest" for choice in planned.choices.values()):
        raise UserError(
            f"plan '{plan.name}' rounds with calibration text, and predictions are for nearest "
            "rounding: `lowbit evaluate` measures the plan itself"
        )
    stored = {s.name: planned.choices[s.name] for s in planned.sites if not s.fresh}
    formats = {n: spell(choice.quant) for n, choice in stored.items() if not is_cast(choice.quant)}
    # A schedule reduces ranks to a mean of `target`; training decides the rank of each site.
    most = math.inf if plan.schedule.kind == "fixed" else plan.schedule.target
    return plan.name, formats, {n: int(min(c.rank, most)) for n, c in stored.items()}


def memory_inputs(
    prepared: Prepared, count: ByteCount, execution: Execution, compute: str
) -> memory_check.MemoryInputs:
    """The inputs of the memory estimate for a training step."""
    spec, parts = prepared.spec, prepared.data.parts
    shape = memory_check.shape_of(prepared.checkpoint.config)
    return memory_check.MemoryInputs(
        count=count,
        shape=shape,
        # A batch never holds more examples than there are.
        train=replace(spec.train, batch=min(spec.train.batch, len(parts["train"]))),
        execution=execution,
        window=max(len(e.ids) for part in parts.values() for e in part),
        item=4 if compute.endswith("fp32") else 2,
        classes=prepared.kind == "classification",
        teacher=teacher_nbytes(
            _distil(spec), parts["train"], shape.width, shape.layers, prepared.kind
        ),
    )


def _distil(spec: RunSpec) -> Distil:
    return spec.plan.ternary.distil if spec.plan.ternary else Distil()


def _distiller(prepared: Prepared, distil: Distil, device: torch.device) -> Distiller:
    """Compute the teacher's outputs with the unquantised model, then free it."""
    with allocator.returning_freed_memory():
        model = load(prepared.checkpoint, prepared.kind).float().to(device)
        text, size = prepared.data.parts["train"], prepared.spec.train.eval_batch
        return run_teacher(model, text, distil, size, device)


def _stored_model(prepared: Prepared, planned: BuiltModel, machine: Machine) -> nn.Module:
    """The model with every site in its format; weights are read one matrix at a time."""
    spec, execution, checkpoint = prepared.spec, machine.execution, prepared.checkpoint
    with allocator.returning_freed_memory():
        rounded = _rounded(prepared)
        packed = {name: site.packed for name, site in rounded.items()}
        encodings = Encodings(cache_dir(), weights_digest(checkpoint), checkpoint.gguf, packed)
        settings = LayerSettings(
            spec.plan,
            machine.dtype,
            spec.seed,
            execution.residency,
            execution.decoder,
            machine.int8,
            {n: site.correction for n, site in rounded.items() if site.correction is not None},
        )
        model, weights = blank(
            checkpoint, prepared.kind, prepared.labels, prepared.pad, machine.device
        )
        install(model, planned.sites, planned.choices, settings, weights, encodings)
    return model.to(machine.device)


def _rounded(prepared: Prepared) -> dict[str, RoundedSite]:
    """The sites that are rounded with calibration text, or whose adapters start there.

    By the plan's own ranks: a base that is scored without its adapter is the one it was trained on.
    """
    planned = planned_sites(prepared)
    on_progress = phases(sys.stderr.isatty())
    return round_sites(prepared, planned.sites, planned.choices, on_progress)


def hooks_of(plan: Plan, built: BuiltModel) -> Hooks:
    """The hooks for the plan's rank schedule or ternary training, and for logged gradient norms."""
    hooks = Hooks()
    if plan.schedule.kind != "fixed":
        svd = {n: a for n, a in adapters(built.model).items() if isinstance(a, SvdAdapter)}
        hooks = rank_hooks(plan.schedule, svd)
    hooks = replace(hooks, look=partial(gradient_norms, built.model, built.sites))
    if plan.ternary is None:
        return hooks
    return ternary_hooks(hooks, plan.ternary, built.model, built.distiller)


def gradient_norms(model: nn.Module, sites: Sequence[Site]) -> dict[str, dict[str, float]]:
    """Gradient norm of the trained parameters, by depth of the site, or by role outside blocks."""
    squares: dict[str, float] = {}
    for site in sites:
        key = site.role if site.depth is None else str(site.depth)
        for parameter in model.get_submodule(site.name).parameters():
            if parameter.grad is not None:
                squares[key] = squares.get(key, 0.0) + float(parameter.grad.square().sum())
    return {"grad_norms": {key: math.sqrt(square) for key, square in squares.items()}}
