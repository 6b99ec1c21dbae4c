"""One run's story: find, prepare, load, choose, install, adapt, score, record.

The only module that knows all the layers; the command line, the engines and the research loop
call `run` and nothing below it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from lowbit.runs import device as machine
from lowbit.runs.record_fields import bytes_of, cost, site_records
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.progress import Watcher, nobody
from lowbit.core.spec import RunSpec
from lowbit.runs.device import PeakMemory
from lowbit.runs.export import peft, ternary
from lowbit.runs.untrained import lent
from lowbit.quant.formats import spell
from lowbit.runs.prepare import (Prepared, prepare_run, weights_digest)
from lowbit.runs.build import (Installed, hooks_of, install_run)
from lowbit.runs.record import (
    ADAPTER,
    CHECKPOINT,
    LOG,
    RECORD,
    SCORES,
    Record,
    finish,
    resumable,
)
from lowbit.runs.scoring import score
from lowbit.train.loop import Setting, adapt


def run(
    spec: RunSpec,
    folder: Path,
    execution: Execution,
    memory: int | None = None,
    watcher: Watcher = nobody,
) -> Record:
    """Carry out one run, or the rest of it, and leave its record in `folder`.

    `memory`: the bytes it may take where others run beside it; its times are then `shared`.
    """
    device, compute = machine.set_up(execution, spec.train.compute)
    _clear(folder)
    if spec.plan.adapter:
        return lent(spec, folder, execution, device, compute)
    return _trained(spec, folder, execution, device, compute, memory, watcher)


def _trained(
    spec: RunSpec,
    folder: Path,
    execution: Execution,
    device: torch.device,
    compute: str,
    memory: int | None,
    watcher: Watcher,
) -> Record:
    peak = PeakMemory(device)
    start = prepare_run(spec)
    # The tokenised data stays, whatever was needed to make it; it is no part of a run's memory.
    peak.start()
    made = install_run(spec, start, execution, device, compute, memory)
    weights, data = weights_digest(start.checkpoint), start.data
    facts = machine.facts(device, compute, execution, data.fingerprint, weights, data.notes)
    setting = Setting(
        kind=start.task.kind,
        train=spec.training,
        seed=spec.seed,
        device=device,
        fingerprint=resumable(spec, facts),
        log=folder / LOG,
        checkpoint=folder / CHECKPOINT,
        hooks=hooks_of(spec.plan, made),
        watcher=watcher,
        checkpoint_every=_checkpoint_every(),
    )
    outcome = adapt(made.model, start.data.parts, setting)
    metrics, ranks = {}, {s.name: made.choices[s.name].rank for s in made.sites}
    if not outcome.diverged:
        metrics = score(made.model, start, spec.train.eval_batch, folder)
        if metrics and outcome.position.best_value is not None:
            metrics["selection"] = outcome.position.best_value
            metrics["best_step"] = float(outcome.position.best_step)
    if metrics:
        ranks = _write_adapter(spec, start, made, folder)
    trained = sum(p.numel() for p in made.model.parameters() if p.requires_grad)
    record = Record(
        status="done" if metrics else "diverged",
        fingerprint=spec.fingerprint,
        spec=spec.declared(),
        metric=start.task.metric,
        better=start.task.better,
        metrics=metrics,
        bytes=bytes_of(made.sites, made.choices, ranks, made.other),
        trainable=trained,
        parameters=made.count.parameters,
        sites=site_records(made.sites, made.choices, ranks),
        facts=facts,
        cost=cost(outcome.position, peak, "alone" if memory is None else "shared"),
        message=outcome.diverged or ("" if metrics else "the scored split's loss is not finite"),
    )
    finished = finish(folder, record)
    _tidy(folder)
    return finished


def _checkpoint_every() -> float:
    """Seconds between checkpoints; tests that kill runs want them often."""
    said = os.environ.get("LOWBIT_CHECKPOINT_EVERY", "30")
    try:
        return float(said)
    except ValueError:
        raise UserError(f"LOWBIT_CHECKPOINT_EVERY={said}: expected seconds, like 30") from None


def _tidy(folder: Path) -> None:
    """A finished run needs no checkpoint, nor what a kill left half written."""
    for rest in (folder / CHECKPOINT, *folder.glob("*.partial")):
        rest.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """What an earlier run left in the folder: a diverged one must not seem to have its scores."""
    (folder / RECORD).unlink(missing_ok=True)
    (folder / SCORES).unlink(missing_ok=True)
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)


def _write_adapter(spec: RunSpec, start: Prepared, made: Installed, folder: Path) -> dict[str, int]:
    origin = peft.Origin(
        model=spec.model,
        fingerprint=spec.fingerprint,
        formats={name: spell(choice.quant) for name, choice in made.choices.items()},
        conv1d=start.checkpoint.config.model_type == "gpt2",
    )
    ranks = peft.write(folder / ADAPTER, made.model, start.task.kind, origin)
    ternary.write(folder / ADAPTER, made.model)
    return {site.name: ranks.get(site.name, 0) for site in made.sites}
