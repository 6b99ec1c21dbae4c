"""Runs that train nothing: they score a stored model, without an adapter or with another run's.

They show the cost of quantisation alone: without training, or with an adapter that was trained on
another base.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lowbit.core.errors import RunError
from lowbit.core.spec import RunSpec
from lowbit.runs.build import build_untrained
from lowbit.runs.device import Machine, PeakMemory
from lowbit.runs.export import peft
from lowbit.runs.prepare import prepare_run
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
    adapter, adapter_ranks = _other_runs_adapter(spec, folder)
    prepared = prepare_run(spec)
    peak.start()
    built = build_untrained(prepared, machine, adapter)
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


def _other_runs_adapter(
    spec: RunSpec, folder: Path
) -> tuple[peft.PeftAdapter | None, dict[str, int]]:
    """The adapter of the run that this one takes it from, with its ranks; none for a bare base."""
    if spec.adapter_run is None:
        return None, {}
    other = folder.parent / spec.adapter_run
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
    return peft.read(other / ADAPTER), {site.name: site.final_rank for site in record.sites}
