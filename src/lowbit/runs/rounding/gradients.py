"""The gradients that rounding weighs errors with, kept on disk: one walk for a model and a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowbit.core import array_store
from lowbit.core.cache import cache_dir
from lowbit.core.errors import RunError
from lowbit.curvature.measured_model import OnProgress
from lowbit.curvature.open_base import open_base
from lowbit.curvature.output_gradients import OutputGradients, output_gradients
from lowbit.models.family import find_sites
from lowbit.models.skeleton import skeleton
from lowbit.runs.prepare import Prepared
from lowbit.runs.rounding.rounded_sites import text_key
from lowbit.tasks.base import Batch

VERSION = 1
"""Increase whenever the same model and text would give other gradients."""
FACTOR_ROWS = 1024
"""Rows of a factor at most, so that factors grow with a matrix's rows and not with their square."""


@dataclass(frozen=True)
class Gradients:
    """`weights`: of every token, for each block matrix that the loss depends on."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    key: str = ""

    def factors(self, name: str) -> tuple[Tensor, ...]:
        """E[g g'] of consecutive rows of a matrix."""
        path = _file(self.key, name)
        arrays = array_store.load(path, f"{self.key}|{name}")
        if arrays is None:
            raise RunError(f"the cached file {path} is gone or damaged: delete its folder")
        return tuple(torch.from_numpy(np.array(arrays[str(i)])).float() for i in range(len(arrays)))


def cached_gradients(
    prepared: Prepared, batches: Sequence[Batch], two_sided: bool, on_progress: OnProgress
) -> Gradients:
    """The gradients of the 16-bit model on this text; `two_sided`: with their factors.

    Empty if the model has no head that was trained: then its loss says nothing, and all tokens
    count alike.
    """
    checkpoint, kind, labels = prepared.checkpoint, prepared.kind, prepared.labels
    if any(s.fresh for s in find_sites(skeleton(checkpoint, kind, labels), checkpoint.matrices)):
        return Gradients()
    rows = FACTOR_ROWS if two_sided else 0
    key = f"{VERSION}|{kind}|{rows}|{text_key(prepared, batches)}"

    def computed() -> array_store.Arrays:
        model = open_base(checkpoint, kind, prepared.pad, batches, labels=labels)
        weights: array_store.Arrays = {}
        walk = output_gradients(model, 0, rows, lambda *at: on_progress("gradients", *at))
        for site, gradients in walk:
            _save_factors(key, site.name, gradients)
            weights[site.name] = gradients.weights.numpy()
        return weights

    # The weights are written last, so where they are, the factors are complete.
    arrays = array_store.load_or_compute(_file(key, "weights"), key, computed)
    return Gradients({n: torch.from_numpy(np.array(a)) for n, a in arrays.items()}, key)


def _save_factors(key: str, name: str, gradients: OutputGradients) -> None:
    if gradients.factors:
        arrays = {str(i): each.half().numpy() for i, each in enumerate(gradients.factors)}
        array_store.save(_file(key, name), f"{key}|{name}", arrays)


def _file(key: str, name: str) -> Path:
    folder = cache_dir() / "output-gradients" / sha256(key.encode()).hexdigest()[:24]
    return folder / f"{name}.safetensors"
