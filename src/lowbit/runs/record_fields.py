"""Builds a run's record from its model: bytes and sites at the final ranks, facts, cost.

Runs that train and runs that only score build their records here, so both hold the same fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from lowbit.core.spec import Choice, Site
from lowbit.quant.byte_counts import base_bytes, count_bytes
from lowbit.quant.formats import spell
from lowbit.runs.build import BuiltModel
from lowbit.runs.device import Machine, PeakMemory, facts
from lowbit.runs.prepare import Prepared, weights_digest
from lowbit.runs.record import Bytes, Cost, Facts, Record, SiteRecord
from lowbit.train.checkpoint import Position

Choices = Mapping[str, Choice]
Ranks = Mapping[str, int]


def facts_of(prepared: Prepared, machine: Machine) -> Facts:
    """The facts of this machine, and of the run's weights and data."""
    data, weights = prepared.data, weights_digest(prepared.checkpoint)
    return facts(machine, data.fingerprint, weights, data.notes)


def make_record(
    prepared: Prepared,
    built: BuiltModel,
    *,
    facts: Facts,
    metrics: Mapping[str, float],
    ranks: Ranks,
    trainable: int,
    cost: Cost,
    diverged: str = "",
) -> Record:
    """The record of a run that has ended; without metrics its status is `diverged`.

    `ranks` by site are the final ones; `diverged` says why training stopped early.
    """
    spec, task = prepared.spec, prepared.task
    return Record(
        status="done" if metrics else "diverged",
        fingerprint=spec.fingerprint,
        spec=spec.declared(),
        metric=task.metric,
        better=task.better,
        metrics=dict(metrics),
        bytes=bytes_of(built.sites, built.choices, ranks, built.other),
        trainable=trainable,
        parameters=built.count.parameters,
        sites=site_records(built.sites, built.choices, ranks),
        facts=facts,
        cost=cost,
        message=diverged or ("" if metrics else "the scored split's loss is not finite"),
    )


def bytes_of(
    sites: Sequence[Site], choices: Choices, ranks: Ranks, other: tuple[int, int]
) -> Bytes:
    """Stored bytes at the final ranks. `other`: parameters outside all sites, and their bytes."""
    final = {name: replace(choice, rank=ranks[name]) for name, choice in choices.items()}
    count = count_bytes(sites, final, *other)
    return Bytes(count.stored, count.base, count.other, count.adapters)


def site_records(sites: Sequence[Site], choices: Choices, ranks: Ranks) -> tuple[SiteRecord, ...]:
    """The record's entry for each site."""
    return tuple(_site(site, choices[site.name], ranks[site.name]) for site in sites)


def _site(site: Site, choice: Choice, final: int) -> SiteRecord:
    return SiteRecord(
        name=site.name,
        role=site.role,
        depth=site.depth,
        shape=site.shape,
        format=spell(choice.quant),
        rank=choice.rank,
        final_rank=final,
        base=choice.base,
        bytes=base_bytes(site, choice),
    )


def cost_of(spent: Position, memory: PeakMemory, timed: Literal["alone", "shared"]) -> Cost:
    """Time, memory and tokens; `timed` says whether the run had the machine to itself."""
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
