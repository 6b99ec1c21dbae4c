"""The two products of a frozen layer, with gradients written out by hand.

    FrozenProduct     y = x W' + b
    AdaptedProduct    y = x W' + b + s (d A') B'        d: x, or x after dropout

W is asked for anew in the backward pass, because keeping the decoded matrix is what packing was
meant to save. The low-rank half is 1 % of the arithmetic and was 20 % of the time: BLAS walks
badly through products with one side of 8. Each of the four here is written in the order that was
measured to be fast (`bench/kernels/adapter_products.py`), up to seven times faster than the order of the formula.

What it gives up: second derivatives, which nobody here takes.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from lowbit.layers.matmul import back, linear


class Stored(Protocol):
    """Whatever gives its matrix (out, in) in a type, for a product at once."""

    def passing(self, dtype: torch.dtype) -> Tensor: ...


class FrozenProduct(torch.autograd.Function):
    """x W' + bias; a frozen bias needs no gradient.

    The bias belongs to the product: added afterwards, bf16 would be rounded twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored: Stored, bias: Tensor | None) -> Tensor:
        ctx.stored = stored
        return linear(x, stored.passing(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return back(grad, ctx.stored.passing(grad.dtype)), None, None


class AdaptedProduct(torch.autograd.Function):
    """x W' + bias + scale (d A') B' for A (rank, in) and B (out, rank).

    `dropped` is x after dropout, or None where that is x itself; then x alone is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        A: Tensor,
        B: Tensor,
        scale: float,
        stored: Stored,
        bias: Tensor | None,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        seen = flat if dropped is None else dropped.reshape(flat.shape)
        thin = linear(seen, A)
        y = linear(flat, stored.passing(x.dtype), bias).addmm_(thin, B.t(), alpha=scale)
        ctx.save_for_backward(seen, thin, A, B)
        ctx.scale, ctx.stored, ctx.dropped = scale, stored, dropped is not None
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        seen, thin, A, B = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        narrow = linear(flat, B.t().contiguous()).mul_(ctx.scale)
        grad_A = narrow.t() @ seen
        grad_B = (thin.t() @ flat).mul_(ctx.scale).t()
        grad_x, grad_dropped = None, None
        shape = (*grad.shape[:-1], -1)
        if ctx.needs_input_grad[0]:
            grad_x = back(flat, ctx.stored.passing(grad.dtype))
            if not ctx.dropped:
                grad_x.addmm_(narrow, A)
            grad_x = grad_x.view(shape)
        if ctx.dropped and ctx.needs_input_grad[1]:
            grad_dropped = (narrow @ A).view(shape)
        return grad_x, grad_dropped, grad_A, grad_B, None, None, None
