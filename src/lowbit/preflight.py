"""Before a run that cannot fit in memory: say so, and say what would fit.

The ledger's training view is an estimate, so a run is refused only when the estimate alone is
more than the memory there is; a ten-step measurement (`lowbit run --dry-run`) is the exact way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lowbit.errors import RunError
from lowbit.quant.ledger import Ledger, Shape, TrainingBytes, training_bytes
from lowbit.spec import TrainSpec


def shape_of(config: Any) -> Shape:
    """What activations depend on, read off a transformers configuration."""
    width = int(config.hidden_size)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return Shape(
        layers=int(config.num_hidden_layers),
        width=width,
        inner=int(inner or 4 * width),
        vocabulary=int(config.vocab_size),
    )


def estimate(
    count: Ledger, shape: Shape, train: TrainSpec, window: int, item: int, classes: bool
) -> TrainingBytes:
    """Peak bytes of a training step of this window length."""
    tokens = train.batch * window
    logits = replace(shape, vocabulary=0) if classes else shape
    return training_bytes(count, logits, tokens, item)


def check(
    free: int, count: Ledger, shape: Shape, train: TrainSpec, window: int, item: int, classes: bool
) -> TrainingBytes:
    """The estimate, or an error with the nearest setting that would fit."""
    need = estimate(count, shape, train, window, item, classes)
    if need.total <= free:
        return need
    raise RunError(
        f"this run needs about {megabytes(need.total)} and {megabytes(free)} are free "
        f"(weights {megabytes(need.stored)}, decoded {megabytes(need.decoded)}, "
        f"adapter states {megabytes(need.gradients + need.optimiser)}, "
        f"activations {megabytes(need.activations)}). "
        + _advice(free, count, shape, train, window, item, classes)
    )


def _advice(
    free: int, count: Ledger, shape: Shape, train: TrainSpec, window: int, item: int, classes: bool
) -> str:
    smaller = train
    while smaller.batch > 1:
        batch = smaller.batch // 2
        smaller = replace(smaller, batch=batch, accumulate=smaller.accumulate * 2)
        if estimate(count, shape, smaller, window, item, classes).total <= free:
            return (
                f"With the same steps, --set train.batch={smaller.batch} "
                f"--set train.accumulate={smaller.accumulate} would fit."
            )
    least = estimate(count, shape, smaller, window, item, classes)
    if least.stored > free:
        return (
            f"Even the weights do not fit: this model in {free / least.stored * 100:.0f} % of "
            "its bytes would, so take fewer bits or a smaller model."
        )
    return (
        f"Even one example a step needs {megabytes(least.total)}: "
        "take a shorter window (--set task.window=...), fewer bits, or a smaller model."
    )


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
