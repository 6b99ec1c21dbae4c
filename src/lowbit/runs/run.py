"""One run from start to end: prepare, build, train, score, record.

This is the only module that uses all layers below it. Workers call `run` and nothing else.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.progress import StepCallback, ignore_step
from lowbit.core.spec import RunSpec
from lowbit.models.family import family_of
from lowbit.quant.formats import spell
from lowbit.runs.build import BuiltModel, build_run, hooks_of
from lowbit.runs.device import Machine, PeakMemory, open_machine
from lowbit.runs.export import peft, ternary
from lowbit.runs.prepare import Prepared, prepare_run
from lowbit.runs.record import (
    ADAPTER,
    CHECKPOINT,
    LOG,
    RECORD,
    SCORES,
    Facts,
    Record,
    resume_key,
    write_record,
)
from lowbit.runs.record_fields import cost_of, facts_of, make_record
from lowbit.runs.scoring import score
from lowbit.runs.untrained import score_untrained
from lowbit.train.loop import LoopSettings, train_model


def run(
    spec: RunSpec,
    folder: Path,
    execution: Execution,
    memory: int | None = None,
    on_step: StepCallback = ignore_step,
) -> Record:
    """Start or resume one run, and write its record to `folder`.

    `memory`: the bytes it may use if several run at once; its times are then marked as `shared`.
    """
    machine = open_machine(execution, spec.train.compute, memory)
    _clear(folder)
    if spec.plan.adapter:
        return score_untrained(spec, folder, machine)
    return _train(spec, folder, machine, on_step)


def _train(spec: RunSpec, folder: Path, machine: Machine, on_step: StepCallback) -> Record:
    peak = PeakMemory(machine.device)
    prepared = prepare_run(spec)
    # Measure memory from here on: the tokenised data does not count as a run's memory.
    peak.start()
    built = build_run(prepared, machine)
    facts = facts_of(prepared, machine)
    settings = _loop_settings(prepared, built, machine, facts, folder, on_step)
    outcome = train_model(built.model, prepared.data.parts, settings)
    metrics, ranks = {}, {s.name: built.choices[s.name].rank for s in built.sites}
    if not outcome.diverged:
        metrics = score(built.model, prepared, folder)
        if metrics and outcome.position.best_value is not None:
            metrics["selection"] = outcome.position.best_value
            metrics["best_step"] = float(outcome.position.best_step)
    if metrics:
        ranks = _write_adapter(prepared, built, folder)
    record = make_record(
        prepared,
        built,
        facts=facts,
        metrics=metrics,
        ranks=ranks,
        trainable=sum(p.numel() for p in built.model.parameters() if p.requires_grad),
        cost=cost_of(outcome.position, peak, "alone" if machine.memory is None else "shared"),
        diverged=outcome.diverged,
    )
    record = write_record(folder, record)
    _tidy(folder)
    return record


def _loop_settings(
    prepared: Prepared,
    built: BuiltModel,
    machine: Machine,
    facts: Facts,
    folder: Path,
    on_step: StepCallback,
) -> LoopSettings:
    spec = prepared.spec
    return LoopSettings(
        kind=prepared.kind,
        train=spec.training,
        seed=spec.seed,
        device=machine.device,
        fingerprint=resume_key(spec, facts),
        log=folder / LOG,
        checkpoint=folder / CHECKPOINT,
        hooks=hooks_of(spec.plan, built),
        on_step=on_step,
        checkpoint_every=_checkpoint_every(),
    )


def _checkpoint_every() -> float:
    """Seconds between checkpoints; tests that kill runs set it low."""
    text = os.environ.get("LOWBIT_CHECKPOINT_EVERY", "30")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"LOWBIT_CHECKPOINT_EVERY={text}: expected seconds, like 30") from None


def _tidy(folder: Path) -> None:
    """Remove the checkpoint, and temporary files of a killed process."""
    for path in (folder / CHECKPOINT, *folder.glob("*.partial")):
        path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove the results of an earlier run: a run that diverges must not keep its scores."""
    (folder / RECORD).unlink(missing_ok=True)
    (folder / SCORES).unlink(missing_ok=True)
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)


def _write_adapter(prepared: Prepared, built: BuiltModel, folder: Path) -> dict[str, int]:
    """Write the adapter; return the final rank of each site."""
    origin = peft.Origin(
        model=prepared.spec.model,
        fingerprint=prepared.spec.fingerprint,
        formats={name: spell(choice.quant) for name, choice in built.choices.items()},
        transposed=family_of(prepared.checkpoint.config.model_type).transposed,
    )
    ranks = peft.write(folder / ADAPTER, built.model, prepared.kind, origin)
    ternary.write(folder / ADAPTER, built.model)
    return {site.name: ranks.get(site.name, 0) for site in built.sites}
