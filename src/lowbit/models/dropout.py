"""Dropout that draws a quarter of torch's random numbers on a CPU.

On a CPU torch draws one random number per element, on one thread, in about ten nanoseconds. That is
a tenth of a training step over short sentences. Here a 64-bit draw serves four elements, with
sixteen bits each. The price is a rate rounded to 1/65536: 0.1 becomes 0.100006. The remaining
elements are scaled by the rounded rate, so the mean is exact. Other devices use torch's dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STEPS = 2**16


class _SixteenBitDropout(torch.autograd.Function):
    """Zero some elements and scale the others; saves a mask of one byte per element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cut: int) -> Tensor:
        mask = _keep_mask(x, cut)
        ctx.save_for_backward(mask)
        ctx.scale = _STEPS / (_STEPS - cut)
        return torch.where(mask, x, 0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (mask,) = ctx.saved_tensors
        return torch.where(mask, grad, 0).mul_(ctx.scale), None


def _keep_mask(x: Tensor, cut: int) -> Tensor:
    """True with probability 1 - cut / 65536."""
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[: x.numel()].view(x.shape) >= cut - _STEPS // 2


def dropout(x: Tensor, rate: float) -> Tensor:
    """Set each element to zero with probability `rate` and scale up the others."""
    cut = round(rate * _STEPS)
    if x.device.type != "cpu" or not 0 < cut < _STEPS:
        return F.dropout(x, rate)
    return _SixteenBitDropout.apply(x, cut)


class Dropout(nn.Module):
    """A module like `nn.Dropout` that uses `dropout` of this file."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p else x


def replace_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` of a model by `Dropout`."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
