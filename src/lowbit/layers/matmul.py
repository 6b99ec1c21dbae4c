"""fp32 matrix products on a CPU, by the faster of torch's two libraries.

torch calls MKL, which uses only AVX2 on AMD processors. oneDNN uses AVX-512 there and is twice as
fast. A fixed rule (`prefers_onednn`) chooses the library. A timing could choose differently from
run to run, which would change the last digits of results.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lowbit.core.execution import ONEDNN

SMALL = 1_000_000
"""Products with fewer multiplications use torch, because a call of oneDNN costs more time."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b, without a gradient."""
    if not (prefers_onednn() and _fits(x, weight)):
        return F.linear(x, weight, bias)
    dense_bias = None if bias is None else bias.contiguous()  # oneDNN ignores its stride
    flat = x.reshape(-1, x.shape[-1])
    rows = len(flat)
    if more := padded_rows(rows) - rows:
        flat = F.pad(flat, (0, 0, 0, more))
    y: Tensor = torch.ops.mkldnn._linear_pointwise(flat, weight, dense_bias, "none", [], "")
    return y[:rows].view(*x.shape[:-1], -1)


def padded_rows(rows: int) -> int:
    """The number of rows rounded up by at most an eighth.

    oneDNN keeps a kernel of about a megabyte for every number of rows, and batches of many lengths
    have hundreds of them. Padding rows do not change the results of the others.
    """
    step = max(16, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // step) * step


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """grad W: the gradient of a linear layer's input."""
    return linear(grad, weight.t()) if prefers_onednn() else grad @ weight


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b with gradients of every order for all three, in reverse and forward mode."""
    if not (prefers_onednn() and _fits(x, weight)):
        return F.linear(x, weight, bias)
    y: Tensor = DenseProduct.apply(x, weight, bias)
    return y


class DenseProduct(torch.autograd.Function):
    """x W' + b. Its backward pass calls `product`, so it can be differentiated again."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        return linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.set_materialize_grads(False)  # multiplying zeros would cost a whole product

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if grad is None:
            return None, None, None
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        return (
            product(grad, weight.t()) if needs_x else None,
            product(flat.t(), x.reshape(-1, x.shape[-1]).t()) if needs_weight else None,
            flat.sum(0) if needs_bias else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        x, weight = ctx.saved_tensors
        x_tangent, weight_tangent, bias_tangent = tangents
        parts = [] if x_tangent is None else [product(x_tangent, weight)]
        parts += [] if weight_tangent is None else [product(x, weight_tangent)]
        parts += [] if bias_tangent is None else [bias_tangent.expand(*x.shape[:-1], -1)]
        return sum(parts[1:], parts[0])


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product: fp32, on the CPU, and large enough."""
    is_fp32_on_cpu = (
        x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" == weight.device.type
    )
    return is_fp32_on_cpu and x.numel() * len(weight) >= SMALL


@lru_cache(maxsize=1)
def prefers_onednn() -> bool:
    """Whether this is an AMD processor with AVX-512, which oneDNN uses and MKL does not.

    A processor of unknown make uses MKL.
    """
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and "amd" in _maker().lower()
    )


def _maker() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def simd_name() -> str:
    """The vector instructions of products. Only runs with equal ones are compared in pairs."""
    instructions: str = torch.backends.cpu.get_cpu_capability()
    return f"{instructions}{ONEDNN}" if prefers_onednn() else instructions


class FastProducts(TorchFunctionMode):
    """A context in which torch's linear layers and GPT-2's Conv1D use `product`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if prefers_onednn() and not kwargs:
            if func is F.linear:
                return product(*args)
            if func is torch.addmm and args[0].dim() == 1:
                return product(args[1], args[2].t(), args[0])
        return func(*args, **(kwargs or {}))
