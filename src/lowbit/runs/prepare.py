"""Prepares a run: opens the model's folder and tokenises the task's data for it.

Tokenising takes time, so it is done once for each model and task. `Prepared.with_plan` returns the
same model and data for another plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from lowbit.core.cache import cache_dir
from lowbit.core.files import file_digest
from lowbit.core.spec import Plan, RunSpec
from lowbit.models.checkpoint import Checkpoint, open_checkpoint, tokenizer_of
from lowbit.models.skeleton import Kind, max_length
from lowbit.runs.demo_model import model_folder
from lowbit.tasks.base import Data, Task
from lowbit.tasks.prepare import find_task, prepare


@dataclass(frozen=True)
class Prepared:
    """A run's specification with its model on disk and its tokenised data."""

    spec: RunSpec
    checkpoint: Checkpoint
    task: Task
    data: Data
    pad: int

    @property
    def kind(self) -> Kind:
        return self.task.kind

    @property
    def labels(self) -> int:
        """Number of classes; 0 for language modelling."""
        return len(self.data.labels)

    def with_spec(self, spec: RunSpec) -> Prepared:
        """The same model and data for another run of the same model and task."""
        if (spec.model, spec.task) != (self.spec.model, self.spec.task):
            raise ValueError(
                f"prepared for {self.spec.model} on {self.spec.task.name}, not for {spec.model} "
                f"on {spec.task.name}: prepare that run"
            )
        return replace(self, spec=spec)

    def with_plan(self, plan: Plan) -> Prepared:
        """The same model and data for another plan."""
        return replace(self, spec=replace(self.spec, plan=plan))


def prepare_run(spec: RunSpec, instead: str = "") -> Prepared:
    """Open the model's folder and tokenise the task's data for it.

    `instead`: how a user gives a model's folder; the error for an unknown model says so.
    """
    checkpoint = open_checkpoint(model_folder(spec.model, instead=instead))
    tokenizer = tokenizer_of(checkpoint.folder)
    task = find_task(spec.task.name, spec.task)
    data = prepare(spec.task, tokenizer, max_length(checkpoint.config), cache_dir())
    pad = tokenizer.pad_token_id
    pad = tokenizer.eos_token_id or 0 if pad is None else pad
    return Prepared(spec, checkpoint, task, data, pad)


def weights_digest(checkpoint: Checkpoint) -> str:
    """A digest of the weights; runs on different weights are never compared."""
    if checkpoint.gguf is not None:
        files = [checkpoint.folder]
    else:
        files = sorted(checkpoint.folder.glob("*.safetensors"))
    return "+".join(_digest(path, path.stat().st_mtime_ns)[:16] for path in files)


@cache
def _digest(path: Path, changed: int) -> str:
    """Cached by modification time: a file is read again only if it has changed."""
    return file_digest(path)
