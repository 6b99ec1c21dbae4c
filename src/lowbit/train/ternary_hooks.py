"""Ternary training as hooks.

They set the blending factor lambda before and after every step, log the shares of zero weights, and
replace the loss when a plan distils.
"""

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
    """`hooks` plus those of a plan whose base is trained towards three values."""
    ternary_layers = layers(model)
    inner_step, look, settled, state = hooks.after_step, hooks.look, hooks.settled, hooks.state
    # Seconds of training over all resumptions, without scoring of the selection split.
    elapsed, step_start = torch.zeros((), dtype=torch.float64), [0.0]

    def strength(step: int, total: int) -> float:
        return recipe.warmup.at(recipe.warmup.progress(step, total, float(elapsed)))

    def begin(step: int, total: int) -> None:
        step_start[0] = clock()
        set_strength(model, strength(step, total))

    def after(step: int, total: int) -> None:
        if inner_step is not None:
            inner_step(step, total)
        elapsed.add_(clock() - step_start[0])
        set_strength(model, strength(step, total))

    def is_ternary(step: int, total: int) -> bool:
        """Whether the model may be saved as the best: only if all weights are ternary."""
        return strength(step, total) == 1.0 and (settled is None or settled(step, total))

    def log_entries() -> dict[str, Any]:
        return {**(look() if look is not None else {}), "ternary": shares(ternary_layers)}

    return replace(
        hooks,
        before_step=begin,
        after_step=after,
        settled=is_ternary,
        look=log_entries,
        loss=None if distiller is None else distiller.loss,
        state={
            **state,
            "warmup.elapsed": elapsed,
            **{f"seen.{name}": layer.last_codes for name, layer in ternary_layers.items()},
        },
    )


def shares(ternary_layers: dict[str, TernaryLinear]) -> dict[str, float]:
    """The shares of `TernaryLinear.look` over all ternary weights, and the blending factor."""
    numbers = sum(layer.weight.numel() for layer in ternary_layers.values())
    sums = {"zero": 0.0, "dead": 0.0, "flipped": 0.0}
    for layer in ternary_layers.values():
        for name, value in vars(layer.look()).items():
            sums[name] += value * layer.weight.numel()
    strength = next(iter(ternary_layers.values())).strength
    return {"strength": strength, **{name: value / numbers for name, value in sums.items()}}
