"""What a run is recorded to have kept and cost: the ledger with the ranks that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from lowbit.core.spec import Choice, Site
from lowbit.runs.device import PeakMemory
from lowbit.quant.byte_counts import kept, ledger
from lowbit.quant.formats import spell
from lowbit.runs.record import Bytes, Cost, SiteRecord
from lowbit.train.checkpoint import Position

Choices = Mapping[str, Choice]
Ranks = Mapping[str, int]


def bytes_of(
    sites: Sequence[Site], choices: Choices, ranks: Ranks, other: tuple[int, int]
) -> Bytes:
    """`other`: numbers and bytes of what is no site."""
    final = {name: replace(choice, rank=ranks[name]) for name, choice in choices.items()}
    count = ledger(sites, final, *other)
    return Bytes(count.stored, count.base, count.other, count.adapters)


def site_records(sites: Sequence[Site], choices: Choices, ranks: Ranks) -> tuple[SiteRecord, ...]:
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
        bytes=kept(site, choice),
    )


def cost(spent: Position, memory: PeakMemory, timed: Literal["alone", "shared"]) -> Cost:
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
