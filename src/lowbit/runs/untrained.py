"""Runs that train nothing: they score a stored model, without an adapter or with another run's.

They show the cost of quantisation alone: without training, with an adapter that was trained on
another base, or with one that was merged into its own base before that was stored.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lowbit.core.errors import RunError
from lowbit.core.spec import RunSpec
from lowbit.models.checkpoint import open_checkpoint
from lowbit.runs.build import build_untrained
from lowbit.runs.device import Machine, PeakMemory
from lowbit.runs.export import peft
from lowbit.runs.finished_run import write_merged
from lowbit.runs.prepare import Prepared, prepare_run
from lowbit.runs.record import ADAPTER, Record, write_record
from lowbit.runs.record_fields import cost_of, facts_of, make_record
from lowbit.runs.scoring import score
from lowbit.runs.store import find_run
from lowbit.train.checkpoint import Position
from lowbit.train.log import Clocks


def score_untrained(spec: RunSpec, folder: Path, machine: Machine) -> Record:
    """Score the plan's model on the scored split and leave the record in `folder`.

    Its time is not reported anywhere, so it is recorded as `alone` even if runs share the machine.
    """
    peak, clocks = PeakMemory(machine.device), Clocks(Position(spec.fingerprint))
    prepared = prepare_run(spec)
    with _base_and_adapter(prepared, folder) as (based, adapter, adapter_ranks):
        peak.start()
        built = build_untrained(based, machine, adapter)
    ranks = {site.name: adapter_ranks.get(site.name, 0) for site in built.sites}
    choices = {n: replace(choice, rank=ranks[n]) for n, choice in built.choices.items()}
    metrics = score(built.model, prepared, folder)
    record = make_record(
        prepared,
        replace(built, choices=choices),
        facts=facts_of(prepared, machine),
        metrics=metrics,
        ranks=ranks,
        trainable=0,
        cost=cost_of(clocks.stamp(Position(spec.fingerprint)), peak, "alone"),
    )
    return write_record(folder, record)


@contextmanager
def _base_and_adapter(
    prepared: Prepared, folder: Path
) -> Iterator[tuple[Prepared, peft.PeftAdapter | None, dict[str, int]]]:
    """What to store, and the adapter of the run that this one takes it from, with its ranks.

    None for a bare base. For a plan that merges, the base has the adapter in it: it lies in a
    folder of its own until its matrices are stored.
    """
    spec = prepared.spec
    if spec.adapter_run is None:
        yield prepared, None, {}
        return
    other = folder.parent / spec.adapter_run
    record = _record_of_other(spec, other)
    if not spec.plan.merge:
        ranks = {site.name: site.final_rank for site in record.sites}
        yield prepared, peft.read(other / ADAPTER), ranks
        return
    merged = folder / "merged.partial"
    shutil.rmtree(merged, ignore_errors=True)  # of a killed process
    try:
        write_merged(other, record, merged)
        yield replace(prepared, checkpoint=open_checkpoint(merged)), None, {}
    finally:
        shutil.rmtree(merged, ignore_errors=True)


def _record_of_other(spec: RunSpec, other: Path) -> Record:
    """The record of the run whose adapter this one takes; an error if it cannot be taken."""
    finished = find_run(other)
    record = None if finished is None else finished.record
    if record is None or record.status != "done":
        raise RunError(f"{spec.adapter_run}, whose adapter this run takes, has not been run here")
    if spec.plan.lent and record.fingerprint != spec.plan.lent:
        raise RunError(
            f"{spec.adapter_run} was recorded with other settings: "
            f"--rerun --only {spec.adapter_run}"
        )
    if not (other / ADAPTER).is_dir():
        raise RunError(
            f"{spec.adapter_run} has a record but no adapter any more: "
            f"--rerun --only {spec.adapter_run}"
        )
    return record
