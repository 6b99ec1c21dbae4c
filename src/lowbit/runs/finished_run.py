"""Turns a finished run back into an ordinary model folder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lowbit.core.errors import RunError
from lowbit.core.spec import RunSpec
from lowbit.core.toml import check
from lowbit.runs.build import build_run
from lowbit.runs.device import cpu_machine
from lowbit.runs.export import merge as merging
from lowbit.runs.export import peft, ternary
from lowbit.runs.prepare import prepare_run, weights_digest
from lowbit.runs.record import ADAPTER, Record
from lowbit.train.evaluate import evaluate

EXAMPLES = 64
"""Number of calibration examples on which the losses after a merge are measured."""


def export_plain(folder: Path, to: Path, merge: bool, record: Record) -> dict[str, float]:
    """Write a finished run's decoded base, or base and adapter merged, as a plain model folder.

    After a merge, return two losses on calibration text: that of the written model, and that of the
    same weights quantised to the plan's formats again. Quantising twice costs quality.
    """
    spec = check(RunSpec, record.spec, None)
    prepared = prepare_run(spec)
    if weights_digest(prepared.checkpoint) != record.facts.weights:
        raise RunError(f"{spec.model} has other weights now than when {folder.name} was trained")
    machine = cpu_machine()
    built = build_run(prepared, machine)
    peft.attach(built.model, peft.read(folder / ADAPTER))
    ternary.attach(built.model, folder / ADAPTER)
    kind, labels = prepared.kind, prepared.labels

    def model(again: bool) -> nn.Module:
        stored_again = built.choices if again else None
        source = (built.model, built.sites, prepared.checkpoint, kind, labels, prepared.pad)
        return merging.plain_model(*source, merge=merge, requantise=stored_again)

    written = model(again=False)
    merging.save(written, prepared.checkpoint, to)
    if not merge:
        return {}
    part = prepared.data.parts["calibration"][:EXAMPLES]

    def loss(of: nn.Module) -> float:
        return evaluate(of.eval(), part, kind, spec.train.eval_batch, machine.device)[1]

    return {"merged": loss(written), "stored again": loss(model(again=True))}
