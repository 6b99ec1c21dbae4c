"""fp32 products on a CPU, by whichever library of torch's two is faster there.

torch hands them to MKL, which keeps to AVX2 on AMD's processors; oneDNN does not, and is twice as
fast where there is AVX-512. It is a rule rather than a measurement, since the last
digits of a run follow from it.
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
"""Multiplications of a product below which oneDNN's call costs more than it wins."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b, without a gradient."""
    if not (held_back() and _fits(x, weight)):
        return F.linear(x, weight, bias)
    held = None if bias is None else bias.contiguous()  # of which it reads no stride
    flat = x.reshape(-1, x.shape[-1])
    rows = len(flat)
    if more := rounded(rows) - rows:
        flat = F.pad(flat, (0, 0, 0, more))
    found: Tensor = torch.ops.mkldnn._linear_pointwise(flat, weight, held, "none", [], "")
    return found[:rows].view(*x.shape[:-1], -1)


def rounded(rows: int) -> int:
    """As many rows or at most an eighth more: oneDNN keeps a kernel of about a megabyte for every
    number of rows that it meets, and batches of many lengths are hundreds. No row's result depends
    on those beside it.
    """
    step = max(16, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // step) * step


def back(grad: Tensor, weight: Tensor) -> Tensor:
    """grad W: what a linear layer hands back."""
    return linear(grad, weight.t()) if held_back() else grad @ weight


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b with gradients of every order for all three, in reverse and forward mode."""
    if not (held_back() and _fits(x, weight)):
        return F.linear(x, weight, bias)
    found: Tensor = Product.apply(x, weight, bias)
    return found


class Product(torch.autograd.Function):
    """Its backward pass is made of products again, so that it can be gone through backwards."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        return linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.set_materialize_grads(False)  # a product with nothing but zeros costs as much as any

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
    def jvp(ctx: Any, *moved: Tensor | None) -> Tensor:
        x, weight = ctx.saved_tensors
        along_x, along_weight, along_bias = moved
        parts = [] if along_x is None else [product(along_x, weight)]
        parts += [] if along_weight is None else [product(x, along_weight)]
        parts += [] if along_bias is None else [along_bias.expand(*x.shape[:-1], -1)]
        return sum(parts[1:], parts[0])


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is one that oneDNN is asked for."""
    alike = (
        x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" == weight.device.type
    )
    return alike and x.numel() * len(weight) >= SMALL


@lru_cache(maxsize=1)
def held_back() -> bool:
    """Whether MKL leaves AVX-512 unused here and oneDNN would use it: on AMD's processors. Who did
    not say what they are is left to MKL."""
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


def vectors() -> str:
    """What products are computed with: a fact that runs must share to be a pair."""
    wide: str = torch.backends.cpu.get_cpu_capability()
    return f"{wide}{ONEDNN}" if held_back() else wide


class Quick(TorchFunctionMode):
    """Within it, linear layers of other make are computed as here: torch's, and GPT-2's Conv1D."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if held_back() and not kwargs:
            if func is F.linear:
                return product(*args)
            if func is torch.addmm and args[0].dim() == 1:
                return product(args[1], args[2].t(), args[0])
        return func(*args, **(kwargs or {}))
