"""What there is to choose a plan from, and the bytes that are left for it under both budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.spec import BLOCK_ROLES, RunSpec, Site
from lowbit.planner.knapsack import Choices, Solution
from lowbit.planner.options import FULL, TRAINED, fitting, options
from lowbit.planner.request import Wanted
from lowbit.quant.byte_counts import Ledger, adapter_numbers, stored
from lowbit.quant.formats import parse
from lowbit.runs import device as machine
from lowbit.runs.build import Installed, needs, plan_sites
from lowbit.runs.prepare import Prepared, prepare_run
from lowbit.sensitivity.table import SensitivityTable


@dataclass(frozen=True)
class Room:
    """What there is to choose from, and the bytes for it: `beside` lies in both budgets already."""

    choices: Choices
    stored: int
    training: int | None
    beside: int
    overhead: int

    @property
    def limits(self) -> tuple[int, int | None]:
        return self.stored, self.training

    @property
    def most(self) -> Solution:
        """16 bits and the largest ranks."""
        found = (max(o, key=lambda o: (o.format == FULL, o.rank)) for o in self.choices.values())
        return Solution(tuple(found), -math.inf)

    @property
    def whole(self) -> bool:
        return self.most.fits(*self.limits)


def check_ahead(spec: RunSpec, wanted: Wanted) -> None:
    """What can be said before anything is measured: a rank for every matrix, bytes for them all."""
    counted = _counted(spec, prepare_run(spec))
    least = counted.other[1] + 4 * _head(counted.sites)
    for site in counted.sites:
        if site.fresh:
            continue
        least += min(stored(parse(text), site.shape).total for text in (*wanted.formats, FULL))
        if site.role in BLOCK_ROLES:
            least += 4 * adapter_numbers(site, fitting(site.name, site.shape, wanted.ranks)[0])
    if least > wanted.stored:
        raise UserError(f"a budget of {wanted.stored:,} bytes: the smallest plan has {least:,}")


def _counted(spec: RunSpec, start: Prepared) -> Installed:
    """The model's sites, and what is no site. At rank 1, since ranks are what is asked about."""
    plan = replace(spec.plan, rank=1)
    return plan_sites(plan, start.checkpoint, start.task.kind, len(start.data.labels))


def _head(sites: Sequence[Site]) -> int:
    """Numbers of a head that the checkpoint does not hold, which is trained in full precision."""
    return sum(s.shape[0] * s.shape[1] + s.bias for s in sites if s.fresh)


def room_for(spec: RunSpec, execution: Execution, wanted: Wanted, table: SensitivityTable) -> Room:
    start = prepare_run(spec)
    counted = _counted(spec, start)
    head = _head(counted.sites)
    beside = counted.other[1] + 4 * head
    overhead = counted.other[1] + TRAINED * head
    overhead += _of_a_step(start, spec, execution, counted.count)
    choices = options(table, (*wanted.formats, FULL), wanted.ranks, wanted.belief)
    training = wanted.training - overhead if wanted.training else None
    return Room(choices, wanted.stored - beside, training, beside, overhead)


def check(room: Room, wanted: Wanted) -> None:
    """Budgets below the smallest plan say what the smallest is, in the words they were asked in."""
    least = sum(min(o.stored for o in each) for each in room.choices.values()) + room.beside
    if least > wanted.stored:
        raise UserError(f"a budget of {wanted.stored:,} bytes: the smallest plan has {least:,}")
    if room.training is not None:
        least = sum(min(o.training for o in each) for each in room.choices.values())
        least += room.overhead
        if least > wanted.training:
            raise UserError(
                f"{wanted.training:,} bytes in training: the smallest plan takes {least:,}, of "
                f"which {room.overhead:,} are activations, what is decoded and what is no matrix; "
                "a smaller batch or window takes less"
            )


def _of_a_step(start: Prepared, spec: RunSpec, execution: Execution, count: Ledger) -> int:
    """What a training step holds beside bases and adapters, as the ledger counts it before a run:
    activations, and what is decoded of the bases."""
    compute = machine.compute_of(execution, spec.train.compute)
    found = needs(spec, start, count, execution, compute).estimate()
    return found.decoded + found.activations
