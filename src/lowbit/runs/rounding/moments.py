"""Second moments of the inputs of a model's matrices, and the text that they are taken on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor, nn

from lowbit.core.array_store import Arrays, load_or_compute
from lowbit.core.cache import cache_dir
from lowbit.core.errors import UserError
from lowbit.curvature.measured_model import OnProgress
from lowbit.curvature.open_base import open_base
from lowbit.curvature.token_weights import TokenWeights, token_weights
from lowbit.models.family import find_sites
from lowbit.models.skeleton import skeleton
from lowbit.runs.prepare import Prepared
from lowbit.runs.rounding.rounded_sites import text_key
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import by_length, collate, split_by_tokens

TOKENS = 16_384
"""Tokens of training text."""
TOKENS_AT_A_TIME = 2048
WEIGHTS_VERSION = 1
"""Increase whenever the same model and text would give other weights."""


def calibration_batches(prepared: Prepared, tokens: int = TOKENS) -> list[Batch]:
    """Training text, spread evenly, in batches of packed sequences."""
    part = prepared.data.parts["train"]
    total = sum(len(example.ids) for example in part)
    if not total:
        raise UserError(f"{prepared.task.name} has no training text to calibrate rounding on")
    count = max(1, min(len(part), round(len(part) * tokens / total)))
    chosen = [int(i * len(part) / count) for i in range(count)]
    order = by_length(part, chosen)
    return [collate(part, index) for index in split_by_tokens(part, TOKENS_AT_A_TIME, order)]


def cached_token_weights(
    prepared: Prepared, batches: Sequence[Batch], on_progress: OnProgress
) -> TokenWeights:
    """How much the loss of the 16-bit model depends on each token; computed once for a text.

    Empty if the model has no head that was trained: then its loss says nothing, and all tokens
    count alike.
    """
    checkpoint, kind, labels = prepared.checkpoint, prepared.kind, prepared.labels
    if any(s.fresh for s in find_sites(skeleton(checkpoint, kind, labels), checkpoint.matrices)):
        return {}
    key = f"{WEIGHTS_VERSION}|{kind}|{text_key(prepared, batches)}"
    path = cache_dir() / "token-weights" / f"{sha256(key.encode()).hexdigest()[:24]}.safetensors"

    def computed() -> Arrays:
        model = open_base(checkpoint, kind, prepared.pad, batches, labels=labels)
        weights = token_weights(model, 0, lambda done, total: on_progress("gradients", done, total))
        return {name: weight.numpy() for name, weight in weights.items()}

    arrays = load_or_compute(path, key, computed)
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


@dataclass
class Moments:
    """The summed w x x' of each matrix's inputs x, with w their token's weight.

    Matrices with the same input and no weights share one sum.
    """

    weights: TokenWeights = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    same_as: dict[str, str] = field(default_factory=dict)
    last: tuple[str, Tensor] | None = None

    def add(self, name: str, inputs: Tensor) -> None:
        weighted = name in self.weights
        if not weighted and self.last is not None and self.last[1] is inputs:
            self.same_as[name] = self.last[0]
            return
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        if name not in self.sums:
            self.sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
        if not weighted:
            self.last = (name, inputs)
            self.sums[name].addmm_(rows.t(), rows)
            return
        first = self.seen[name]
        self.seen[name] += len(rows)
        weight = self.weights[name][first : first + len(rows), None]
        self.sums[name].addmm_(rows.t(), rows * weight)

    def of(self, name: str) -> Tensor:
        return self.sums[self.same_as.get(name, name)]


@contextmanager
def recording(model: nn.Module, names: Sequence[str], moments: Moments) -> Iterator[None]:
    """Add every input of these modules to `moments`."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: moments.add(name, inputs[0])

    handles = [model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
