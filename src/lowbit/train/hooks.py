"""The functions that a training method can add to the loop: a penalty, calls around a step, state.

AdaLoRA (`rank_schedule`) and ternary training (`ternary_hooks`) build `Hooks`. The loop calls them
and imports neither method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Hooks:
    """The training loop's callbacks.

    `penalty` is added to the loss. `before_step` and `after_step` get (step, total); `after_step`
    runs before gradients are cleared. `loss` replaces the task's own loss. `settled` returns
    whether the model after a step may be saved as the best. `look` runs on steps that are logged,
    before gradients are clipped, and returns entries for the log line.
    `state` is saved and restored with every checkpoint; its tensors are updated in place.
    """

    penalty: Callable[[], Tensor] | None = None
    before_step: Callable[[int, int], None] | None = None
    after_step: Callable[[int, int], None] | None = None
    settled: Callable[[int, int], bool] | None = None
    look: Callable[[], dict[str, Any]] | None = None
    loss: Callable[[nn.Module, Any, Any], tuple[Tensor, int]] | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
