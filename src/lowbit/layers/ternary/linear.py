"""The layer that is trained towards three values.

    y = x (w + lambda (Q(w) - w))' + bias        dL/dw = dL/d(what multiplied), straight through

At lambda = 1 exactly Q(w) multiplies, bit for bit what the packed layer holds. Weights that are
zero get no signal of which way to go but the one that passes straight through; three dials help
them: their gradient may be scaled, a trained bias may stand in for them, and reactivation adds them
up as a bias that no input reaches (after Tequila), so that they get a gradient of their own. Both
biases are one vector at export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lowbit.core.errors import Bounds, check_bounds
from lowbit.layers.matmul import product
from lowbit.layers.ternary.grid import Grid, blocks, rounded, ternarised, unblocked


@dataclass(frozen=True)
class Recovery:
    """What is done for weights that are zero.

    `gradient` multiplies theirs; `reactivation` is where the trained factor of their sum starts
    (0: none); `bias` adds a trained one; `activations`: 8-bit activations, a scale a token.
    """

    gradient: float = 1.0
    reactivation: float = 0.0
    bias: bool = False
    activations: bool = False

    def __post_init__(self) -> None:
        check_bounds("recovery", self, {"gradient": Bounds(0), "reactivation": Bounds(0)})


@dataclass(frozen=True)
class Shares:
    """Of a layer's weights: zero now, zero now and when last looked at, of another code since."""

    zero: float
    dead: float
    flipped: float


class Blend(torch.autograd.Function):
    """(w, learned scale or None) -> what multiplies x. Only the codes are kept, as int8."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, learned: Tensor | None, grid: Grid, strength: float, dead: float
    ) -> Tensor:
        codes, scale = ternarised(weight, grid, learned)
        ctx.grid, ctx.strength, ctx.dead = grid, strength, dead
        kept = codes.to(torch.int8) if dead != 1.0 or learned is not None else None
        ctx.save_for_backward(*(t for t in (kept,) if t is not None))
        shape = (weight.shape[0], weight.shape[1])
        found = unblocked(codes.mul_(scale), shape, grid)
        if strength == 1.0:
            return found
        return torch.lerp(weight, found, strength)

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
            dead = unblocked(codes == 0, shape, ctx.grid)
            grad = torch.where(dead, ctx.dead * grad, grad)
        return grad, own, None, None, None


class TernaryLinear(nn.Module):
    """A linear layer on its way to three values; `strength` is the schedule's lambda."""

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
        held = None if bias is None else bias.detach().float().clone()
        if held is None and self.recovery.bias:
            held = torch.zeros(len(weight), device=weight.device)
        self.bias = None if held is None else nn.Parameter(held)
        start = self.recovery.reactivation
        self.revival = nn.Parameter(torch.tensor(start, device=weight.device)) if start else None
        self.scale = nn.Parameter(self._scales()) if self.grid.rule == "learned" else None
        self.seen = unblocked(self.codes(), self.shape, self.grid).to(torch.int8)
        """Codes when last looked at; saved with a checkpoint, so that a log goes on as it was."""

    def _scales(self) -> Tensor:
        return ternarised(self.weight.detach(), self.grid)[1]

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        found = Blend.apply(
            self.weight, self.scale, self.grid, self.strength, self.recovery.gradient
        )
        held = bits8(x) if self.recovery.activations else x
        bias = self.whole_bias()
        return product(held, found.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def whole_bias(self) -> Tensor | None:
        """Everything that no input reaches, as one vector, rounded as 16 bits will keep it."""
        found = self._bias()
        if found is None:
            return None
        return found + (found.detach().to(torch.float16).float() - found.detach())

    def _bias(self) -> Tensor | None:
        if self.revival is None:
            return self.bias
        dead = unblocked(self.codes() == 0, self.shape, self.grid)
        revived = self.strength * self.revival * (self.weight * dead).sum(1)
        return revived if self.bias is None else self.bias + revived

    @torch.no_grad()
    def codes(self) -> Tensor:
        """Blocks of -1, 0 and +1, as they are now."""
        return ternarised(self.weight, self.grid, self.scale)[0]

    @torch.no_grad()
    def scales(self) -> Tensor:
        """As stored: (rows, groups)."""
        return ternarised(self.weight, self.grid, self.scale)[1].squeeze(-1)

    @torch.no_grad()
    def look(self) -> Shares:
        """What became of the weights since this was last asked."""
        codes = unblocked(self.codes(), self.shape, self.grid).to(torch.int8)
        zero, was = codes == 0, self.seen == 0
        share = [float(t.float().mean()) for t in (zero, zero & was, codes != self.seen)]
        self.seen.copy_(codes)
        return Shares(*share)

    def extra_repr(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]}, {self.grid.rule}@{self.grid.group}"


def bits8(x: Float[Tensor, "... in"]) -> Float[Tensor, "... in"]:
    """Every token's numbers in 8 bits against its own largest; gradients pass straight through."""
    scale = rounded(x.detach().float().abs().amax(-1, keepdim=True) / 127)
    held = (x.float() / scale).round().clamp(-127, 127) * scale
    return x + (held.to(x.dtype) - x).detach()


def layers(model: nn.Module) -> dict[str, TernaryLinear]:
    """By module name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, TernaryLinear)}


def set_strength(model: nn.Module, strength: float) -> None:
    """The schedule's lambda, for every layer."""
    for layer in layers(model).values():
        layer.strength = strength
