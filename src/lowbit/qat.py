"""What ternary training asks of the loop: lambda before and after every step, shares in the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from lowbit.adalora import Hooks
from lowbit.distilling import Distiller
from lowbit.recipe import Recipe
from lowbit.ternary.linear import TernaryLinear, layers, set_strength


def ternary_hooks(
    hooks: Hooks, recipe: Recipe, model: nn.Module, distiller: Distiller | None = None
) -> Hooks:
    """The hooks of a plan whose base is trained, with those that it has anyway."""
    found = layers(model)
    before, look, settled, state = hooks.after_step, hooks.look, hooks.settled, hooks.state

    def move(step: int, total: int) -> None:
        set_strength(model, recipe.warmup.at(step / total))

    def after(step: int, total: int) -> None:
        if before is not None:
            before(step, total)
        move(step, total)

    def may_keep(step: int, total: int) -> bool:
        """What is not ternary yet is not what was asked for."""
        ternary = recipe.warmup.at(step / total) == 1.0
        return ternary and (settled is None or settled(step, total))

    def seen() -> dict[str, Any]:
        return {**(look() if look is not None else {}), "ternary": shares(found)}

    return replace(
        hooks,
        before_step=move,
        after_step=after,
        settled=may_keep,
        look=seen,
        loss=None if distiller is None else distiller.loss,
        state={**state, **{f"seen.{name}": layer.seen for name, layer in found.items()}},
    )


def shares(found: dict[str, TernaryLinear]) -> dict[str, float]:
    """Of all ternary weights: zero, zero twice in a row, of another code since the last look."""
    numbers = sum(layer.weight.numel() for layer in found.values())
    sums = {"zero": 0.0, "dead": 0.0, "flipped": 0.0}
    for layer in found.values():
        for name, value in vars(layer.look()).items():
            sums[name] += value * layer.weight.numel()
    strength = next(iter(found.values())).strength
    return {"strength": strength, **{name: value / numbers for name, value in sums.items()}}
