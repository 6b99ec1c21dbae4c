"""Scores a quantised model without training, next to the same model in 16 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from lowbit.core.spec import Plan
from lowbit.runs.comparison import Comparison
from lowbit.runs.request import Device, Settings, single_run

PartName = Literal["scored", "calibration", "selection"]


def evaluate(
    model: str | Path,
    task: str,
    plan: str | Path | Plan,
    *,
    part: PartName = "scored",
    settings: Settings = (),
    device: Device | None = None,
) -> Comparison:
    """Score a model in a plan's formats, without training, next to the same model in 16 bits.

    Scores are cached on disk.

    Args:
        model: A folder, a hub id, `assets:NAME` or `demo:tiny`.
        task: A task's name, or a file of text.
        plan: A plan's TOML file, a format like `nf4@64`, a name like `Joint-2`, or a plan.
        part: The part of the task's data to score.
        settings: Overrides like `{"task.limit": 100}`.
        device: Where to run, instead of the settings' device.

    Returns:
        Both scores, and their gap paired by document.

    Example:
        >>> from lowbit import evaluate
        >>> comparison = evaluate("demo:tiny", "demo", "int2@64", part="calibration",
        ...                       settings={"execution.threads": 1})
        >>> comparison.plan.stored < comparison.full_precision.stored
        True
    """
    from lowbit.runs.cached_scores import compare_with_16_bits
    from lowbit.runs.device import open_machine
    from lowbit.runs.prepare import prepare_run

    spec, execution = single_run(model, task, plan, 0, settings)
    if device is not None:
        execution = replace(execution, device=device)
    machine = open_machine(execution, spec.train.compute)
    return compare_with_16_bits(prepare_run(spec), machine, part)
