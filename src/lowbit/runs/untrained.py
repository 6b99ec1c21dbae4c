"""Runs that train nothing: a base scored as it is stored, bare or with another run's adapter.

What they show is what storing costs by itself: before any training, and after training that knew
nothing of it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lowbit.runs import device as machine
from lowbit.runs.record_fields import bytes_of, cost, site_records
from lowbit.core.errors import RunError
from lowbit.core.execution import Execution
from lowbit.core.spec import RunSpec
from lowbit.runs.device import PeakMemory
from lowbit.runs.export import peft
from lowbit.runs.prepare import (prepare_run, weights_digest)
from lowbit.runs.build import (install_bare)
from lowbit.runs.record import ADAPTER, Record, finish, load
from lowbit.runs.scoring import score
from lowbit.train.checkpoint import Position
from lowbit.train.log import Clocks


def lent(
    spec: RunSpec, folder: Path, execution: Execution, device: torch.device, compute: str
) -> Record:
    """Score the plan's base on the scored split and leave the record in `folder`.

    Its time is of no interest, so it is `alone` even where others run beside it.
    """
    peak, clocks = PeakMemory(device), Clocks(Position(spec.fingerprint))
    loaded, ranks = _lender(spec, folder)
    start = prepare_run(spec)
    peak.start()
    made = install_bare(spec, start, execution, device, compute, loaded)
    ranks = {site.name: ranks.get(site.name, 0) for site in made.sites}
    choices = {n: replace(choice, rank=ranks[n]) for n, choice in made.choices.items()}
    metrics = score(made.model, start, spec.train.eval_batch, folder)
    weights, data = weights_digest(start.checkpoint), start.data
    record = Record(
        status="done" if metrics else "diverged",
        fingerprint=spec.fingerprint,
        spec=spec.declared(),
        metric=start.task.metric,
        better=start.task.better,
        metrics=metrics,
        bytes=bytes_of(made.sites, choices, ranks, made.other),
        trainable=0,
        parameters=made.count.parameters,
        sites=site_records(made.sites, choices, ranks),
        facts=machine.facts(device, compute, execution, data.fingerprint, weights, data.notes),
        cost=cost(clocks.stamp(Position(spec.fingerprint)), peak, "alone"),
        message="" if metrics else "the scored split's loss is not finite",
    )
    return finish(folder, record)


def _lender(spec: RunSpec, folder: Path) -> tuple[peft.Loaded | None, dict[str, int]]:
    """The adapter that is lent, with its ranks; nothing for a bare base."""
    if spec.lender is None:
        return None, {}
    other = folder.parent / spec.lender
    record = load(other)
    if record is None or record.status != "done":
        raise RunError(f"{spec.lender}, whose adapter this run takes, has not been run here")
    if spec.plan.lent and record.fingerprint != spec.plan.lent:
        raise RunError(
            f"{spec.lender} was recorded with other settings: --rerun --only {spec.lender}"
        )
    if not (other / ADAPTER).is_dir():
        raise RunError(
            f"{spec.lender} has a record but no adapter any more: --rerun --only {spec.lender}"
        )
    return peft.read(other / ADAPTER), {site.name: site.final_rank for site in record.sites}
