"""Second moments of the inputs of a model's matrices, and the text that they are taken on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from lowbit.core.errors import UserError
from lowbit.runs.prepare import Prepared
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import by_length, collate, split_by_tokens

TOKENS = 16_384
"""Tokens of training text."""
TOKENS_AT_A_TIME = 512


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


@dataclass
class Moments:
    """The summed w x x' of each matrix's inputs x, with w their token's weight.

    Matrices with the same input and no weights share one sum.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
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
