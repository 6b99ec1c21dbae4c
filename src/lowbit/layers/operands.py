"""The frozen matrix of a product, in the type that the product is computed in.

`DenseOperand` multiplies in the compute type. `Int8Operand` (`compute = "int8"`) rounds the matrix
and each row of the activations to 255 levels and multiplies integers:

    y    = s_x (codes_x codes_W') s_W          one scale per row of x, one per row of W
    dx   = s_g (codes_g codes_W)               g times s_W first, so both passes use one codes_W

Rounding depends on the rows alone, so a result does not depend on the batch around it. NaN reaches
the scales and therefore the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lowbit.layers.matmul import input_gradient, linear

LEVELS = 127
_TINY = 1e-30


class Operand(Protocol):
    """A frozen matrix W (out, in), ready to multiply."""

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor: ...
    def input_gradient(self, grad: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class DenseOperand:
    """A decoded matrix in the compute type."""

    weight: Tensor

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x, self.weight, bias)

    def input_gradient(self, grad: Tensor) -> Tensor:
        return input_gradient(grad, self.weight)


@dataclass(frozen=True, eq=False)
class Int8Operand:
    """A matrix as int8 codes with one scale per row. `kept`: it is used again, so it is packed."""

    codes: Tensor
    scale: Tensor
    kept: bool = False
    _packed: dict[bool, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, weight: Tensor, kept: bool = False) -> Int8Operand:
        codes, scale = quantise_rows(weight)
        return cls(codes, scale[:, 0], kept)

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        codes, scale = quantise_rows(x.reshape(-1, x.shape[-1]))
        y = self._multiply(codes, transposed=False).mul_(scale)
        y = y if bias is None else y.add_(bias)
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def input_gradient(self, grad: Tensor) -> Tensor:
        flat = grad.reshape(-1, grad.shape[-1])
        codes, scale = quantise_rows(flat.float() * self.scale)
        slope = self._multiply(codes, transposed=True).mul_(scale)
        return slope.to(grad.dtype).view(*grad.shape[:-1], -1)

    def _multiply(self, x: Tensor, transposed: bool) -> Tensor:
        """codes x (W' with its scales), or codes x W without, in fp32."""
        if self.kept and _has_onednn(x):
            return self._multiply_packed(x, transposed)
        weight = self.codes if transposed else self.codes.t()
        y = integer_product(x, weight)
        return y if transposed else y.mul_(self.scale)

    def _multiply_packed(self, x: Tensor, transposed: bool) -> Tensor:
        """By oneDNN, whose product of a matrix in its own order scales the result as well."""
        rows = self.codes.shape[1 if transposed else 0]
        if transposed not in self._packed:
            weight = self.codes.t().contiguous() if transposed else self.codes
            self._packed[transposed] = (
                torch.ops.onednn.qlinear_prepack(weight, None),
                torch.ones(rows) if transposed else self.scale,
                torch.zeros(rows, dtype=torch.int64),
            )
        weight, scale, zero = self._packed[transposed]
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 0, weight, scale, zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 codes, fp32 scales (rows, 1)) of a matrix, each row by its largest number."""
    wide = x.float()
    scale = wide.abs().amax(1, keepdim=True).clamp_(min=_TINY).div_(LEVELS)
    return (wide / scale).round_().to(torch.int8), scale


def integer_product(x: Tensor, weight: Tensor) -> Tensor:
    """x weight of two int8 matrices, in fp32."""
    # Of a matrix with a side of 1, torch's integer product takes one stride for the other.
    if x.device.type == "cpu" and min(*x.shape, *weight.shape) > 1:
        return torch._int_mm(x, weight).float()
    if x.device.type != "cuda":
        return x.float() @ weight.float()
    # CUDA's product wants more than 16 rows, and sizes that are multiples of 8.
    (rows, inner), columns = x.shape, weight.shape[1]
    more = (max(0, 17 - rows), -inner % 8, -columns % 8)
    x = F.pad(x, (0, more[1], 0, more[0]))
    weight = F.pad(weight, (0, more[2], 0, more[1]))
    return torch._int_mm(x, weight)[:rows, :columns].float()


def _has_onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and hasattr(torch.ops.onednn, "qlinear_pointwise")
