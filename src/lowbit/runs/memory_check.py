"""Refuses a run that cannot fit in memory, before it starts, and suggests settings that fit.

The bytes of a training step are an estimate (`quant.byte_counts`), so a run is refused only when
the estimate exceeds the free memory. `lowbit run --dry-run` measures ten steps instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lowbit.core.errors import RunError
from lowbit.core.execution import Execution
from lowbit.core.spec import TrainSpec
from lowbit.quant.byte_counts import ByteCount, ModelShape, TrainingBytes, training_bytes


def shape_of(config: Any) -> ModelShape:
    """The dimensions that activations depend on, read from a transformers configuration."""
    width = int(config.hidden_size)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return ModelShape(
        layers=int(config.num_hidden_layers),
        width=width,
        inner=int(inner or 4 * width),
        vocabulary=int(config.vocab_size),
    )


@dataclass(frozen=True)
class MemoryInputs:
    """Everything that the memory of a training step depends on.

    `window` is the number of tokens per example, `item` the bytes per number. `classes` is true for
    classification.
    """

    count: ByteCount
    shape: ModelShape
    train: TrainSpec
    execution: Execution
    window: int
    item: int
    classes: bool
    teacher: int = 0
    """Bytes of the teacher's outputs for the training text."""

    def estimate(self) -> TrainingBytes:
        """Peak bytes of a training step."""
        tokens = max(self.train.batch * self.window, self.train.token_budget)
        shape = replace(self.shape, vocabulary=0) if self.classes else self.shape
        count = self.count
        if self.execution.residency == "decoded":
            # All matrices are decoded at the same time, instead of one at a time.
            count = replace(count, largest_decoded=self.item * count.parameters)
        checkpointing = self.execution.checkpointing
        return training_bytes(count, shape, tokens, self.item, checkpointing, self.teacher)


def check_memory(free: int, need: MemoryInputs) -> TrainingBytes:
    """Return the estimate; raise with settings that would fit if it exceeds the free memory."""
    estimate = need.estimate()
    if estimate.total <= free:
        return estimate
    raise RunError(
        f"this run needs about {megabytes(estimate.total)} and {megabytes(free)} are free "
        f"(weights {megabytes(estimate.stored)}, decoded {megabytes(estimate.decoded)}, "
        f"adapter states {megabytes(estimate.gradients + estimate.optimiser)}, "
        f"activations {megabytes(estimate.activations)}). " + _advice(free, need)
    )


def _advice(free: int, need: MemoryInputs) -> str:
    for options, cheaper in _cheaper_settings(need):
        if cheaper.estimate().total <= free:
            return f"With the same steps, {options} would fit."
    least = replace(need, train=replace(need.train, batch=1), execution=_SMALLEST).estimate()
    if least.stored > free:
        return (
            f"Even the weights do not fit: at most {free / least.stored * 100:.0f} % of their "
            "bytes would. Use fewer bits or a smaller model."
        )
    return (
        f"Even one example per step needs {megabytes(least.total)}: "
        "use a shorter window (--set task.window=...), fewer bits, or a smaller model."
    )


_SMALLEST = Execution(checkpointing=True)


def _cheaper_settings(need: MemoryInputs) -> Iterator[tuple[str, MemoryInputs]]:
    """Settings that give the same result with less memory, fastest first."""
    if need.execution.residency == "decoded":
        need = replace(need, execution=replace(need.execution, residency="packed"))
        yield "--set execution.residency=packed", need
    train = need.train
    while train.batch > 1 and not train.token_budget:
        train = replace(train, batch=train.batch // 2, accumulate=train.accumulate * 2)
        words = f"--set train.batch={train.batch} --set train.accumulate={train.accumulate}"
        yield words, replace(need, train=train)
    small = replace(need, execution=_SMALLEST)
    yield "--set execution.checkpointing=true", small
    words = f"--set train.batch={train.batch} --set train.accumulate={train.accumulate}"
    yield f"{words} --set execution.checkpointing=true", replace(small, train=train)


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
