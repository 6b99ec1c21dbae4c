"""Loads a whole model with its weights, as stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lowbit.core.errors import UserError
from lowbit.models.checkpoint import Checkpoint
from lowbit.models.family import family_of
from lowbit.models.skeleton import Kind, auto, configured, quiet
from lowbit.models.weights import blank


def load(checkpoint: Checkpoint, kind: Kind, labels: int = 0, pad: int | None = None) -> nn.Module:
    """The model as stored, in the checkpoint's own type, in evaluation mode."""
    if checkpoint.gguf is not None:
        model, weights = blank(checkpoint, kind, labels, pad or 0, torch.device("cpu"))
        weights.fill(model, "")
        return model.eval().requires_grad_(True)
    with quiet():
        model, report = auto(kind).from_pretrained(
            checkpoint.folder,
            config=configured(checkpoint, kind, labels, pad),
            use_safetensors=True,
            local_files_only=True,
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_loaded(checkpoint, report)
    return model.eval()


def _check_loaded(checkpoint: Checkpoint, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights: only a new head may be initialised at random."""
    for name, stored, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{checkpoint.folder}: '{name}' is {tuple(stored)} in the weights, but config.json and "
            f"the task's classes require {tuple(expected)}"
        )
    family = family_of(checkpoint.config.model_type)
    for name in sorted(report["missing_keys"]):
        site = family.match(name.rpartition(".")[0])
        if site is None or site.role != "head":
            raise UserError(f"{checkpoint.folder}: its weights lack '{name}'")
