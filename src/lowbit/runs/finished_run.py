"""Turns a finished run back into an ordinary model folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from lowbit.core.errors import RunError, UserError
from lowbit.core.spec import Choice, RunSpec
from lowbit.core.toml import check
from lowbit.runs.build import BuiltModel, build_run
from lowbit.runs.device import cpu_machine
from lowbit.runs.export import merge as merging
from lowbit.runs.export import peft, ternary
from lowbit.runs.prepare import Prepared, prepare_run, weights_digest
from lowbit.runs.record import ADAPTER, Record
from lowbit.train.evaluate import evaluate

EXAMPLES = 64
"""Number of calibration examples on which the losses after a merge are measured."""


def export_plain(folder: Path, to: Path, merge: bool, record: Record) -> dict[str, float]:
    """Write a finished run's decoded base, or base and adapter merged, as a plain model folder.

    After a merge, return two losses on calibration text: that of the written model, and that of the
    same weights quantised to the plan's formats again. Quantising twice costs quality.
    """
    prepared, built = _trained(folder, record)
    written = _plain(prepared, built, merge)
    merging.save(written, prepared.checkpoint, to)
    if not merge:
        return {}
    part = prepared.data.parts["calibration"][:EXAMPLES]

    def loss(of: nn.Module) -> float:
        batch = prepared.spec.train.eval_batch
        return evaluate(of.eval(), part, prepared.kind, batch, torch.device("cpu"))[1]

    again = _plain(prepared, built, merge, built.choices)
    return {"merged": loss(written), "stored again": loss(again)}


def write_merged(folder: Path, record: Record, to: Path) -> None:
    """Write a finished run's base and adapter, merged, in the type of its checkpoint's matrices.

    Nobody keeps a merged model in fp32, so what this type rounds away belongs to the merge.
    """
    prepared, built = _trained(folder, record)
    if prepared.kind != "language":
        raise UserError(
            f"{folder.name}: only language models are merged; the head of a classifier was trained "
            "in full precision, and storing it again would round it"
        )
    stored = set(prepared.checkpoint.stored.values())
    dtype = torch.float16 if "fp16" in stored else torch.bfloat16
    written = _plain(prepared, built, merge=True)
    merging.save(written if stored <= {"fp32"} else written.to(dtype), prepared.checkpoint, to)


def _trained(folder: Path, record: Record) -> tuple[Prepared, BuiltModel]:
    """The model of a finished run as it was trained, on the CPU in fp32."""
    spec = check(RunSpec, record.spec, None)
    prepared = prepare_run(spec)
    if weights_digest(prepared.checkpoint) != record.facts.weights:
        raise RunError(f"{spec.model} has other weights now than when {folder.name} was trained")
    built = build_run(prepared, cpu_machine())
    peft.attach(built.model, peft.read(folder / ADAPTER))
    ternary.attach(built.model, folder / ADAPTER)
    return prepared, built


def _plain(
    prepared: Prepared,
    built: BuiltModel,
    merge: bool,
    requantise: Mapping[str, Choice] | None = None,
) -> nn.Module:
    source = (built.model, built.sites, prepared.checkpoint)
    made_for = (prepared.kind, prepared.labels, prepared.pad)
    return merging.plain_model(*source, *made_for, merge=merge, requantise=requantise)
