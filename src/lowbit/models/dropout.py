"""Dropout whose random numbers do not cost more than the layers between them.

On a CPU torch draws one random number an element, one thread, about ten nanoseconds each: a tenth
of a step over short sentences. A 64-bit draw holds four elements' worth, so here each of them gets
sixteen bits, and the rate is rounded to 1/65536 (0.1 becomes 0.100006; what is kept is scaled by
the rounded rate, so the mean stays exact). Other devices keep torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STEPS = 2**16


class _Dropped(torch.autograd.Function):
    """x where it is kept, scaled; keeps a byte an element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cut: int) -> Tensor:
        kept = _kept(x, cut)
        ctx.save_for_backward(kept)
        ctx.scale = _STEPS / (_STEPS - cut)
        return torch.where(kept, x, 0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return torch.where(kept, grad, 0).mul_(ctx.scale), None


def _kept(x: Tensor, cut: int) -> Tensor:
    """True with probability 1 - cut / 65536."""
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[: x.numel()].view(x.shape) >= cut - _STEPS // 2


def dropout(x: Tensor, rate: float) -> Tensor:
    """Every element zero with probability `rate`, the others scaled up."""
    cut = round(rate * _STEPS)
    if x.device.type != "cpu" or not 0 < cut < _STEPS:
        return F.dropout(x, rate)
    return _Dropped.apply(x, cut)


class Dropout(nn.Module):
    """In the place of torch's."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p else x


def use(model: nn.Module) -> None:
    """Put it in the place of every dropout of a model."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
