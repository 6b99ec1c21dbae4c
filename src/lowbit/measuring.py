"""A model's sensitivities on a task's calibration text, kept once they are known.

The calibration part is neither trained on nor scored. A file a table, named by everything that it
depends on: weights, data, formats, ranks, samples, seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256

import torch

from lowbit import device as machine
from lowbit.errors import UserError
from lowbit.files import write_atomic
from lowbit.measure import Asked, Lab, measure
from lowbit.models.family import find_sites
from lowbit.models.loading import load
from lowbit.ready import Prepared, prepare_run, weights_digest
from lowbit.sensitivity import SensitivityTable, from_text, to_text
from lowbit.spec import Execution, RunSpec
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import collate
from lowbit.tasks.cache import cache_dir

MEASURE = 1
"""To be raised whenever the same model would be measured differently."""
LEAST = 512
"""Tokens below which second derivatives say nothing."""


def table_of(
    spec: RunSpec,
    execution: Execution,
    asked: Asked,
    tokens: int,
    told: Callable[[str, int, int], None],
) -> SensitivityTable:
    """The table of the spec's model and task; its plan and settings do not matter."""
    machine.set_up(execution, "fp32")
    start = prepare_run(spec)
    if start.task.kind != "language":
        raise UserError(
            f"{spec.task.name}: only language models can be measured before they are trained; a "
            "classifier's head does not exist yet"
        )
    about = [MEASURE, weights_digest(start.checkpoint), start.data.fingerprint, tokens]
    key = json.dumps([*about, torch.__version__, asdict(asked)])
    name = sha256(key.encode()).hexdigest()[:24]
    path = cache_dir() / "sensitivities" / f"{name}.json"
    if path.is_file():
        return from_text(path.read_text(encoding="utf-8"))
    table = measure(_lab(start, tokens), asked, (spec.model, spec.task.name), told)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_text(table).encode())
    return table


def _lab(start: Prepared, tokens: int) -> Lab:
    """The model in full precision, on the CPU, and single sequences up to so many tokens."""
    model = load(start.checkpoint, start.task.kind, 0, start.pad).float().eval()
    sites = find_sites(model, start.checkpoint.matrices)
    return Lab(model, sites, sequences(start, tokens))


def sequences(start: Prepared, tokens: int) -> list[Batch]:
    """Calibration sequences, one a batch, until there are enough tokens."""
    part, found, count = start.data.parts["calibration"], [], 0
    for i, example in enumerate(part):
        if count >= tokens:
            break
        found.append(collate(part, [i]))
        count += len(example.ids)
    if count < min(tokens, LEAST):
        raise UserError(
            f"{start.task.name} has {count:,} tokens to calibrate on; at least {LEAST:,} are "
            "needed for an interval worth the name"
        )
    return found
