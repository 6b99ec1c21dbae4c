"""The products of frozen and of adapted layers, with hand-written gradients.

    FrozenProduct     y = x W' + b
    AdaptedProduct    y = x W' + b + s (d A') B'        d: x, or x after dropout

They replace autograd's own chain, which would keep the decoded W for the backward pass. Here W is
decoded again in the backward pass, so packed storage also saves memory while training.

The low-rank half is 1 % of the arithmetic but took 20 % of the time, because BLAS is slow on
products with one side of 8. Each of its four products is written in the fastest order measured by
`bench/kernels/adapter_products.py`, up to seven times faster than the order of the formula.

These functions have no second derivatives. Training does not need them.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from lowbit.layers.matmul import linear
from lowbit.layers.operands import Operand


class WeightSource(Protocol):
    """A stored matrix (out, in) that can be made ready to multiply."""

    def operand(self, dtype: torch.dtype) -> Operand: ...


class FrozenProduct(torch.autograd.Function):
    """x W' + bias; a frozen bias needs no gradient.

    The bias is added inside the product, because adding it afterwards would round bf16 twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored: WeightSource, bias: Tensor | None) -> Tensor:
        ctx.stored = stored
        return stored.operand(x.dtype).product(x, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.stored.operand(grad.dtype).input_gradient(grad), None, None


class AdaptedProduct(torch.autograd.Function):
    """x W' + bias + scale (d A') B' for A (rank, in) and B (out, rank).

    `dropped` is x after dropout, or None without dropout; then only x is saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        A: Tensor,
        B: Tensor,
        scale: float,
        stored: WeightSource,
        bias: Tensor | None,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        adapter_input = flat if dropped is None else dropped.reshape(flat.shape)
        thin = linear(adapter_input, A)
        y = stored.operand(x.dtype).product(flat, bias).addmm_(thin, B.t(), alpha=scale)
        ctx.save_for_backward(adapter_input, thin, A, B)
        ctx.scale, ctx.stored, ctx.dropped = scale, stored, dropped is not None
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        adapter_input, thin, A, B = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        narrow = linear(flat, B.t().contiguous()).mul_(ctx.scale)
        grad_A = narrow.t() @ adapter_input
        grad_B = (thin.t() @ flat).mul_(ctx.scale).t()
        grad_x, grad_dropped = None, None
        shape = (*grad.shape[:-1], -1)
        if ctx.needs_input_grad[0]:
            grad_x = ctx.stored.operand(grad.dtype).input_gradient(flat)
            if not ctx.dropped:
                grad_x.addmm_(narrow, A)
            grad_x = grad_x.view(shape)
        if ctx.dropped and ctx.needs_input_grad[1]:
            grad_dropped = (narrow @ A).view(shape)
        return grad_x, grad_dropped, grad_A, grad_B, None, None, None
