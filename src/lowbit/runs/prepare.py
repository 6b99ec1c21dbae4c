"""What a run starts from: the model's folder, and the task's data tokenised for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lowbit.core.cache import cache_dir
from lowbit.core.files import digest
from lowbit.core.spec import RunSpec
from lowbit.models.loading import (
    Checkpoint,
    max_length,
    open_checkpoint,
    tokenizer_of,
)
from lowbit.runs.demo_model import model_folder
from lowbit.tasks.base import Data, Task
from lowbit.tasks.prepare import find, prepare


@dataclass(frozen=True)
class Prepared:
    """What a run starts from: a model on disk, and data cut for it."""

    checkpoint: Checkpoint
    task: Task
    data: Data
    pad: int


def prepare_run(spec: RunSpec, instead: str = "") -> Prepared:
    """The model's folder, the task's data tokenised for it. `instead`: as `resolve` has it."""
    checkpoint = open_checkpoint(model_folder(spec.model, instead=instead))
    tokenizer = tokenizer_of(checkpoint.folder)
    task = find(spec.task.name, spec.task)
    data = prepare(spec.task, tokenizer, max_length(checkpoint.config), cache_dir())
    pad = tokenizer.pad_token_id
    return Prepared(checkpoint, task, data, tokenizer.eos_token_id or 0 if pad is None else pad)


def weights_digest(checkpoint: Checkpoint) -> str:
    """The checkpoint's weights, so that records on different ones are never compared."""
    files = sorted(checkpoint.folder.glob("*.safetensors"))
    return "+".join(_digest(path, path.stat().st_mtime_ns)[:16] for path in files)


@cache
def _digest(path: Path, changed: int) -> str:
    """Read whole once, for as long as the file stays the same."""
    return digest(path)
