"""A linear layer that is trained towards three values.

    y = x V' + bias,  V = w + lambda (Q(w) - w)        dL/dw = dL/dV (straight-through)

It replaces a frozen base by full-precision weights that training moves onto a ternary grid. At
lambda = 1 the layer multiplies exactly Q(w), bit for bit as the packed layer does. The price is the
memory of full-precision weights and their optimiser state while training.

Weights that round to zero only get the straight-through gradient, which says little about the
direction in which they should move. `Recovery` has three settings for them: scale their gradient,
train an extra bias, or add their sum to the bias (reactivation, after Tequila), which gives them a
gradient of their own. An export stores both biases as one vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lowbit.core.errors import Bounds, check_bounds
from lowbit.layers.matmul import product
from lowbit.layers.ternary.grid import Grid, blocks, join_blocks, stored_scale, ternarise


@dataclass(frozen=True)
class Recovery:
    """Settings for weights that round to zero, and for activations.

    `gradient` multiplies the gradient of zero weights. `reactivation` is the initial factor of
    their sum in the bias (0: none); the factor is trained. `bias` adds a trained bias.
    `activations` rounds activations to 8 bits with one scale per token.
    """

    gradient: float = 1.0
    reactivation: float = 0.0
    bias: bool = False
    activations: bool = False

    def __post_init__(self) -> None:
        check_bounds("recovery", self, {"gradient": Bounds(0), "reactivation": Bounds(0)})


@dataclass(frozen=True)
class Shares:
    """Shares of a layer's weights, compared with the last call of `TernaryLinear.look`.

    `zero`: zero now. `dead`: zero now and then. `flipped`: changed since then.
    """

    zero: float
    dead: float
    flipped: float


class Blend(torch.autograd.Function):
    """(w, learned scale or None) -> the blended matrix. Backward needs only the codes, as int8."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, learned: Tensor | None, grid: Grid, strength: float, dead: float
    ) -> Tensor:
        codes, scale = ternarise(weight, grid, learned)
        ctx.grid, ctx.strength, ctx.dead = grid, strength, dead
        needs_codes = dead != 1.0 or learned is not None
        ctx.save_for_backward(*([codes.to(torch.int8)] if needs_codes else []))
        shape = (weight.shape[0], weight.shape[1])
        ternary = join_blocks(codes.mul_(scale), shape, grid)
        if strength == 1.0:
            return ternary
        return torch.lerp(weight, ternary, strength)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        if not ctx.saved_tensors:
            return grad, None, None, None, None
        (codes,) = ctx.saved_tensors
        own = None
        if ctx.needs_input_grad[1]:
            own = ctx.strength * (blocks(grad, ctx.grid) * codes).sum(-1, keepdim=True)
        if ctx.dead != 1.0:
            shape = (grad.shape[0], grad.shape[1])
            dead = join_blocks(codes == 0, shape, ctx.grid)
            grad = torch.where(dead, ctx.dead * grad, grad)
        return grad, own, None, None, None


class TernaryLinear(nn.Module):
    """A linear layer trained towards three values; `strength` is the schedule's lambda."""

    def __init__(
        self,
        weight: Float[Tensor, "out in"],
        bias: Tensor | None = None,
        grid: Grid | None = None,
        recovery: Recovery | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.recovery = grid or Grid(), recovery or Recovery()
        self.strength = 0.0
        self.weight = nn.Parameter(weight.detach().float().clone())
        initial_bias = None if bias is None else bias.detach().float().clone()
        if initial_bias is None and self.recovery.bias:
            initial_bias = torch.zeros(len(weight), device=weight.device)
        self.bias = None if initial_bias is None else nn.Parameter(initial_bias)
        start = self.recovery.reactivation
        self.revival = nn.Parameter(torch.tensor(start, device=weight.device)) if start else None
        self.scale = nn.Parameter(self._scales()) if self.grid.rule == "learned" else None
        self.last_codes = join_blocks(self.codes(), self.shape, self.grid).to(torch.int8)
        """Codes at the last call of `look`; checkpoints save them for the log."""

    def _scales(self) -> Tensor:
        return ternarise(self.weight.detach(), self.grid)[1]

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        weight = Blend.apply(
            self.weight, self.scale, self.grid, self.strength, self.recovery.gradient
        )
        inputs = round_activations(x) if self.recovery.activations else x
        bias = self.total_bias()
        return product(inputs, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def total_bias(self) -> Tensor | None:
        """Bias and reactivation as one vector, rounded to fp16 as it is stored."""
        bias = self._bias()
        if bias is None:
            return None
        return bias + (bias.detach().to(torch.float16).float() - bias.detach())

    def _bias(self) -> Tensor | None:
        if self.revival is None:
            return self.bias
        dead = join_blocks(self.codes() == 0, self.shape, self.grid)
        revived = self.strength * self.revival * (self.weight * dead).sum(1)
        return revived if self.bias is None else self.bias + revived

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The current codes: blocks of -1, 0 and +1."""
        return ternarise(self.weight, self.grid, self.scale)[0]

    @torch.no_grad()
    def scales(self) -> Tensor:
        """The scales as they are stored: (rows, groups)."""
        return ternarise(self.weight, self.grid, self.scale)[1].squeeze(-1)

    @torch.no_grad()
    def look(self) -> Shares:
        """The shares of zero and changed weights since the last call."""
        codes = join_blocks(self.codes(), self.shape, self.grid).to(torch.int8)
        zero, zero_before = codes == 0, self.last_codes == 0
        masks = (zero, zero & zero_before, codes != self.last_codes)
        share = [float(mask.float().mean()) for mask in masks]
        self.last_codes.copy_(codes)
        return Shares(*share)

    def extra_repr(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]}, {self.grid.rule}@{self.grid.group}"


def round_activations(x: Float[Tensor, "... in"]) -> Float[Tensor, "... in"]:
    """Round each token's numbers to 8 bits of its largest; gradients pass straight through."""
    scale = stored_scale(x.detach().float().abs().amax(-1, keepdim=True) / 127)
    rounded = (x.float() / scale).round().clamp(-127, 127) * scale
    return x + (rounded.to(x.dtype) - x).detach()


def layers(model: nn.Module) -> dict[str, TernaryLinear]:
    """Every ternary layer by its module's name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, TernaryLinear)}


def set_strength(model: nn.Module, strength: float) -> None:
    """Set the schedule's lambda in every ternary layer."""
    for layer in layers(model).values():
        layer.strength = strength
