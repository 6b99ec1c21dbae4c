"""Rank schedules: choose the singular directions to keep while training.

AdaLoRA (Zhang et al. 2023) scores a direction by how sensitive the loss is to it: |value x
gradient|, smoothed over steps, times its smoothed uncertainty; the score of a direction is that of
its singular value plus the means over its two vectors. Every few steps the weakest directions of
the whole model are cut, until the budget (target x sites) is met. `adalora` lowers the budget along
a cubic, `linear` along a straight line. A penalty on the training loss keeps the vectors near
orthogonal.

Between cuts a direction that was cut may return, as in the original. After `stop` the set is final,
and only a model with the final set may be saved as the best. Cut directions are not part of the
saved adapter or of the byte count.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from lowbit.core.schedules import RankSchedule
from lowbit.layers.adapters import SvdAdapter
from lowbit.train.hooks import Hooks


def budget(schedule: RankSchedule, initial: int, target: int, step: int, total: int) -> int:
    """The number of directions that remain after `step` of `total`."""
    start, stop = schedule.start * total, schedule.stop * total
    if step <= start:
        return initial
    if step >= stop:
        return target
    left = 1 - (step - start) / (stop - start)
    power = 3 if schedule.kind == "adalora" else 1
    # Rounded down as in AdaLoRA's code, so that equal gradients give equal cuts at every step.
    return int((initial - target) * left**power + target)


def rank_hooks(schedule: RankSchedule, adapters: Mapping[str, SvdAdapter]) -> Hooks:
    """Hooks that apply a schedule to a model's adapters."""
    state = {
        f"{kind}/{site}/{name}": torch.zeros_like(parameter)
        for site, adapter in adapters.items()
        for name, parameter in adapter.named_parameters()
        for kind in ("sensitivity", "uncertainty")
    }
    initial = sum(len(adapter.E) for adapter in adapters.values())
    target = schedule.target * len(adapters)

    def settled(step: int, total: int) -> bool:
        return step >= schedule.stop * total

    def after_step(step: int, total: int) -> None:
        if settled(step - 1, total):
            return
        if not settled(step, total):
            _smooth(schedule, adapters, state)
        if step % schedule.every == 0 or settled(step, total):
            keep = budget(schedule, initial, target, step, total)
            _cut(adapters, state, keep, final=settled(step, total))

    penalty = partial(orthogonality, schedule, adapters)
    return Hooks(penalty, after_step=after_step, settled=settled, state=state)


@torch.no_grad()
def _smooth(
    schedule: RankSchedule, adapters: Mapping[str, SvdAdapter], state: dict[str, Tensor]
) -> None:
    for site, adapter in adapters.items():
        for name, parameter in adapter.named_parameters():
            if parameter.grad is None:
                continue
            raw = (parameter * parameter.grad).abs()
            smooth = state[f"sensitivity/{site}/{name}"]
            smooth.lerp_(raw, 1 - schedule.beta1)
            state[f"uncertainty/{site}/{name}"].lerp_((raw - smooth).abs(), 1 - schedule.beta2)


def importance(site: str, state: Mapping[str, Tensor]) -> Tensor:
    """One score per direction."""

    def score(name: str) -> Tensor:
        return state[f"sensitivity/{site}/{name}"] * state[f"uncertainty/{site}/{name}"]

    return score("E") + score("A").mean(1) + score("B").mean(0)


@torch.no_grad()
def _cut(
    adapters: Mapping[str, SvdAdapter], state: Mapping[str, Tensor], keep: int, final: bool
) -> None:
    """Zero all but the `keep` best directions of the whole model; in a tie the earlier one stays.

    Until the final cut, the singular value of a cut direction may grow again.
    """
    scores = torch.cat([importance(site, state).cpu() for site in adapters])
    masks = torch.zeros(len(scores), dtype=torch.bool)
    masks[scores.argsort(descending=True, stable=True)[:keep]] = True
    for adapter, mask in zip(
        adapters.values(), masks.split([len(a.E) for a in adapters.values()]), strict=True
    ):
        adapter.E.mul_(mask.to(adapter.E.device))
        if final:
            adapter.alive.copy_(mask)


def orthogonality(schedule: RankSchedule, adapters: Mapping[str, SvdAdapter]) -> Tensor:
    """The weighted distance of the vectors from orthonormal ones, averaged over matrices."""
    terms = []
    for adapter in adapters.values():
        eye = torch.eye(len(adapter.E), device=adapter.E.device)
        terms.append((adapter.A @ adapter.A.T - eye).norm())
        terms.append((adapter.B.T @ adapter.B - eye).norm())
    return schedule.orthogonality * torch.stack(terms).mean()
