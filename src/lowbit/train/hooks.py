"""What a method may add to the one training loop: a penalty, calls around a step, state.

The loop knows hooks only. AdaLoRA (`rank_schedule`) and ternary training (`ternary_hooks`) make
them, so the loop imports neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Hooks:
    """What the training loop calls: `penalty` joins the loss, `after_step` sees the gradients.

    `before_step` is told what step comes, and `loss` stands in for the task's own.
    `settled` says whether the model after a step may be the one that is kept. `look` sees the
    gradients of a step that is logged, before they are clipped, and adds to its line.
    `state` is saved and restored with every checkpoint; its tensors are updated in place.
    """

    penalty: Callable[[], Tensor] | None = None
    before_step: Callable[[int, int], None] | None = None
    after_step: Callable[[int, int], None] | None = None
    settled: Callable[[int, int], bool] | None = None
    look: Callable[[], dict[str, Any]] | None = None
    loss: Callable[[nn.Module, Any, Any], tuple[Tensor, int]] | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
