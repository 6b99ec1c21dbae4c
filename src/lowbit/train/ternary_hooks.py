"""What ternary training asks of the loop: lambda before and after every step, shares in the log."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lowbit.core.schedules import Recipe
from lowbit.layers.ternary.linear import TernaryLinear, layers, set_strength
from lowbit.train.distillation import Distiller
from lowbit.train.hooks import Hooks
from lowbit.train.log import Clock


def ternary_hooks(
    hooks: Hooks,
    recipe: Recipe,
    model: nn.Module,
    distiller: Distiller | None = None,
    clock: Clock = time.perf_counter,
) -> Hooks:
    """The hooks of a plan whose base is trained, with those that it has anyway."""
    found = layers(model)
    before, look, settled, state = hooks.after_step, hooks.look, hooks.settled, hooks.state
    # Seconds of training, over all resumptions; scoring the selection split is not training.
    elapsed, began = torch.zeros((), dtype=torch.float64), [0.0]

    def strength(step: int, total: int) -> float:
        return recipe.warmup.at(recipe.warmup.progress(step, total, float(elapsed)))

    def begin(step: int, total: int) -> None:
        began[0] = clock()
        set_strength(model, strength(step, total))

    def after(step: int, total: int) -> None:
        if before is not None:
            before(step, total)
        elapsed.add_(clock() - began[0])
        set_strength(model, strength(step, total))

    def may_keep(step: int, total: int) -> bool:
        """What is not ternary yet is not what was asked for."""
        return strength(step, total) == 1.0 and (settled is None or settled(step, total))

    def seen() -> dict[str, Any]:
        return {**(look() if look is not None else {}), "ternary": shares(found)}

    return replace(
        hooks,
        before_step=begin,
        after_step=after,
        settled=may_keep,
        look=seen,
        loss=None if distiller is None else distiller.loss,
        state={
            **state,
            "warmup.elapsed": elapsed,
            **{f"seen.{name}": layer.last_codes for name, layer in found.items()},
        },
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
