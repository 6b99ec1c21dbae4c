"""A finished run, turned back into an ordinary model folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lowbit.core.errors import RunError
from lowbit.core.execution import Execution
from lowbit.core.spec import RunSpec
from lowbit.core.toml import check
from lowbit.runs.export import peft, merge as plain, ternary
from lowbit.runs.prepare import (prepare_run, weights_digest)
from lowbit.runs.build import (install_run)
from lowbit.runs.record import ADAPTER, Record
from lowbit.train.evaluate import evaluate

EXAMPLES = 64
"""Of the calibration part, for the losses that a merge tells."""


def export_plain(folder: Path, to: Path, merge: bool, record: Record) -> dict[str, float]:
    """Write a finished run's decoded base, or base and adapter merged, as a plain model folder.

    Merging tells two losses on the calibration part: of what was written, and of the same weights
    stored again in the plan's formats, because that second quantisation has its price.
    """
    spec = check(RunSpec, record.spec, None)
    start = prepare_run(spec)
    if weights_digest(start.checkpoint) != record.facts.weights:
        raise RunError(f"{spec.model} has other weights now than when {folder.name} was trained")
    made = install_run(spec, start, Execution(), torch.device("cpu"), "fp32")
    peft.attach(made.model, peft.read(folder / ADAPTER))
    ternary.attach(made.model, folder / ADAPTER)
    labels, kind = len(start.data.labels), start.task.kind

    def model(again: bool) -> nn.Module:
        stored_again = made.choices if again else None
        where = (made.model, made.sites, start.checkpoint, kind, labels, start.pad)
        return plain.plain(*where, merge=merge, requantise=stored_again)

    written = model(again=False)
    plain.save(written, start.checkpoint, to)
    if not merge:
        return {}
    part = start.data.parts["calibration"][:EXAMPLES]

    def loss(of: nn.Module) -> float:
        size, device = spec.train.eval_batch, torch.device("cpu")
        return evaluate(of.eval(), part, kind, size, device)[1]

    return {"merged": loss(written), "stored again": loss(model(again=True))}
