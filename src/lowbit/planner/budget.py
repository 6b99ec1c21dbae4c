"""The bytes that are left for sites under the stored and the training budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowbit.core.errors import UserError
from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.planner.knapsack import Choices, Solution
from lowbit.planner.options import FULL_PRECISION, TRAINING_BYTES, options, possible_ranks
from lowbit.planner.request import PlanRequest
from lowbit.quant.byte_counts import ByteCount, adapter_numbers, matrix_bytes
from lowbit.quant.formats import parse
from lowbit.runs.build import BuiltModel, memory_inputs, planned_sites
from lowbit.runs.device import Machine
from lowbit.runs.prepare import Prepared
from lowbit.sensitivity.table import SensitivityTable


@dataclass(frozen=True)
class Headroom:
    """The options of all sites, and the bytes that are left for them under each budget.

    `other`: stored bytes outside all sites. `overhead`: bytes in training besides bases and
    adapters. Both are already subtracted from `stored` and `training`.
    """

    choices: Choices
    stored: int
    training: int | None
    other: int
    overhead: int

    @property
    def limits(self) -> tuple[int, int | None]:
        return self.stored, self.training

    @property
    def largest(self) -> Solution:
        """16 bits and the largest ranks."""
        best = (
            max(options, key=lambda o: (o.format == FULL_PRECISION, o.rank))
            for options in self.choices.values()
        )
        return Solution(tuple(best), -math.inf)

    @property
    def fits_in_full(self) -> bool:
        return self.largest.fits(*self.limits)


def check_smallest_plan(prepared: Prepared, request: PlanRequest) -> None:
    """Before measuring: reject ranks that fit no site, and a budget that is too small."""
    counted = _counted(prepared)
    least = counted.other[1] + 4 * _head(counted.sites)
    for site in counted.sites:
        if site.fresh:
            continue
        formats = (*request.formats, FULL_PRECISION)
        least += min(matrix_bytes(parse(text), site.shape).total for text in formats)
        if site.role in BLOCK_ROLES:
            rank = possible_ranks(site.name, site.shape, request.ranks)[0]
            least += 4 * adapter_numbers(site, rank)
    if least > request.stored:
        raise UserError(f"a budget of {request.stored:,} bytes: the smallest plan has {least:,}")


def _counted(prepared: Prepared) -> BuiltModel:
    """The model's sites and its other bytes, counted at rank 1: ranks are not chosen yet."""
    plan = replace(prepared.spec.plan, rank=1)
    return planned_sites(prepared.with_plan(plan))


def _head(sites: Sequence[Site]) -> int:
    """Parameters of a head that is not in the checkpoint, which is trained in full precision."""
    return sum(s.shape[0] * s.shape[1] + s.bias for s in sites if s.fresh)


def headroom(
    prepared: Prepared,
    machine: Machine,
    request: PlanRequest,
    table: SensitivityTable,
) -> Headroom:
    counted = _counted(prepared)
    head = _head(counted.sites)
    other = counted.other[1] + 4 * head
    overhead = counted.other[1] + TRAINING_BYTES * head
    overhead += _step_bytes(prepared, machine, counted.count)
    formats = (*request.formats, FULL_PRECISION)
    choices = options(table, formats, request.ranks, request.costs)
    training = request.training - overhead if request.training else None
    return Headroom(choices, request.stored - other, training, other, overhead)


def check_headroom(left: Headroom, request: PlanRequest) -> None:
    """Reject budgets below the smallest plan, and name its size in the terms of the request."""
    least = sum(min(o.stored for o in options) for options in left.choices.values()) + left.other
    if least > request.stored:
        raise UserError(f"a budget of {request.stored:,} bytes: the smallest plan has {least:,}")
    if left.training is not None:
        least = sum(min(o.training for o in options) for options in left.choices.values())
        least += left.overhead
        if least > request.training:
            raise UserError(
                f"{request.training:,} bytes in training: the smallest plan takes {least:,}, of "
                f"which {left.overhead:,} are activations, decoded weights and parameters outside "
                "all sites; a smaller batch or window takes less"
            )


def _step_bytes(prepared: Prepared, machine: Machine, count: ByteCount) -> int:
    """Bytes of a training step besides bases and adapters: activations and decoded weights."""
    estimate = memory_inputs(prepared, count, machine.execution, machine.compute).estimate()
    return estimate.decoded + estimate.activations
