"""Norms and gated products of Llama-shaped blocks that keep less for the backward pass.

Autograd keeps every intermediate of `act(gate) * up` and of a norm, the latter in fp32. Each is one
function here, which keeps its inputs and computes the rest again. The forward pass calls the same
operations as transformers in the same order, so its results are equal to the bit.

The functions have no second derivative and treat a norm's weight as frozen, so only models that
train adapters use them (`runs/build.py`).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GatedProduct(torch.autograd.Function):
    """silu(gate) * up; keeps `gate` and `up`."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), grad_up


class RootMeanSquareNorm(torch.autograd.Function):
    """weight * x / sqrt(mean x^2 + eps), computed in fp32; keeps x and one number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, inverse, weight)
        normed = wide.mul_(inverse) if wide is not x else wide * inverse
        return normed.to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        x, inverse, weight = ctx.saved_tensors
        normed = x.float() * inverse
        slope = grad.float() * weight
        shared = torch.linalg.vecdot(slope, normed).unsqueeze(-1).div_(x.shape[-1])
        return slope.addcmul_(normed, shared, value=-1).mul_(inverse).to(x.dtype), None, None


def use(model: nn.Module) -> None:
    """Switch the norms and gated feed-forward layers of a model to these functions, in place."""
    for module in model.modules():
        if _is_rms_norm(module):
            module.forward = MethodType(_norm, module)  # type: ignore[method-assign]
        elif _is_gated(module):
            module.forward = MethodType(_feed_forward, module)  # type: ignore[method-assign]


def _is_rms_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


def _is_gated(module: nn.Module) -> bool:
    """Whether a module is a feed-forward layer down(silu(gate(x)) * up(x))."""
    names = {name for name, _ in module.named_children()}
    parts = {"gate_proj", "up_proj", "down_proj", "act_fn"}
    return names == parts and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation")


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    if self.weight.requires_grad or self.weight.dtype != hidden_states.dtype:
        return type(self).forward(self, hidden_states)  # type: ignore[no-any-return]
    normed: Tensor = RootMeanSquareNorm.apply(hidden_states, self.weight, self.variance_epsilon)
    return normed


def _feed_forward(self: Any, x: Tensor) -> Tensor:
    product = GatedProduct.apply(self.gate_proj(x), self.up_proj(x))
    down: Tensor = self.down_proj(product)
    return down
