"""PEFT's AdaLoRA, driven as its authors mean it, as the oracle: the same ranks at every step.

Driven right: `update_and_allocate` after every optimiser step, with gradients still in place (the
Trainer never calls it, and prunes nothing).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import PlannedModel, batch_of, installed, opened, some_ids
from torch import Tensor, nn

from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan
from lowbit.layers.adapters import SvdAdapter
from lowbit.layers.install import adapters
from lowbit.train.losses import training_loss
from lowbit.train.rank_schedule import rank_hooks

peft = pytest.importorskip("peft", reason="PEFT is not installed")

Folder = Callable[[str], Path]
INITIAL, TARGET, TOTAL, EVERY = 6, 2, 40, 3
SCHEDULE = RankSchedule("adalora", target=TARGET, start=0.1, stop=0.7, every=EVERY)
PLAN = Plan("p", "fp32", embedding="fp32", rank=INITIAL, alpha="2r", schedule=SCHEDULE)
MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def ours(tiny_model: Folder) -> PlannedModel:
    return installed(opened(tiny_model("llama"), "language"), PLAN)


@pytest.fixture
def theirs(tiny_model: Folder, ours: PlannedModel) -> Any:
    """PEFT's model with our starting parameters."""
    config = peft.AdaLoraConfig(
        init_r=INITIAL,
        target_r=TARGET,
        tinit=round(SCHEDULE.start * TOTAL),
        tfinal=TOTAL - round(SCHEDULE.stop * TOTAL),
        deltaT=EVERY,
        beta1=SCHEDULE.beta1,
        beta2=SCHEDULE.beta2,
        orth_reg_weight=SCHEDULE.orthogonality,
        total_step=TOTAL,
        lora_alpha=2 * INITIAL,
        target_modules=MATRICES,
        task_type="CAUSAL_LM",
    )
    base = opened(tiny_model("llama"), "language").model().float()
    model = peft.get_peft_model(base, config)
    for site, adapter in adapters(ours.model).items():
        for name, one, other in both(site, adapter, model):
            del name
            other.data.copy_(one.detach().view_as(other))
    return model


def both(site: str, adapter: Any, model: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
    """(name, ours, theirs) of a site's three parameters."""
    layer = model.get_submodule(f"base_model.model.{site}")
    return [
        (name, getattr(adapter, name), getattr(layer, f"lora_{name}")["default"]) for name in "AEB"
    ]


def ranks(made: PlannedModel) -> dict[str, list[bool]]:
    return {n: (a.E != 0).tolist() for n, a in adapters(made.model).items()}  # type: ignore


def their_ranks(made: PlannedModel, model: nn.Module) -> dict[str, list[bool]]:
    return {
        n: (both(n, a, model)[1][2].flatten() != 0).tolist()
        for n, a in adapters(made.model).items()
    }


def svd(made: PlannedModel) -> dict[str, SvdAdapter]:
    return {n: a for n, a in adapters(made.model).items() if isinstance(a, SvdAdapter)}


def test_equal_gradients_give_equal_ranks_at_every_step(ours: PlannedModel, theirs: Any) -> None:
    hooks, source = rank_hooks(SCHEDULE, svd(ours)), torch.Generator().manual_seed(1)
    assert hooks.after_step is not None
    seen = set()
    for step in range(1, TOTAL + 1):
        for site, adapter in svd(ours).items():
            for _, one, other in both(site, adapter, theirs):
                slope = torch.randn(one.shape, generator=source)
                one.grad, other.grad = slope, slope.view_as(other)
                one.data.sub_(0.05 * slope)
                other.data.sub_(0.05 * other.grad)
        hooks.after_step(step, TOTAL)
        theirs.base_model.update_and_allocate(step)
        final = step >= SCHEDULE.stop * TOTAL
        found = {n: a.alive.tolist() for n, a in svd(ours).items()} if final else ranks(ours)
        assert found == their_ranks(ours, theirs), step
        seen.add(sum(map(sum, found.values())))
    sites = len(svd(ours))
    assert min(seen) == TARGET * sites
    assert len(seen) > 4


def test_training_both_ends_with_equal_ranks(ours: PlannedModel, theirs: Any) -> None:
    hooks = rank_hooks(SCHEDULE, svd(ours))
    assert hooks.after_step is not None
    assert hooks.penalty is not None
    mine = torch.optim.AdamW([p for p in ours.model.parameters() if p.requires_grad], lr=3e-3)
    other = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=3e-3)
    theirs.train()
    for step in range(1, TOTAL + 1):
        torch.manual_seed(step)
        ids = some_ids().roll(step, 0)[:, : 12 - step % 3]
        loss, labels = training_loss(ours.model, "language", batch_of(ids[:, :-1], ids[:, 1:]))
        (loss / labels + hooks.penalty()).backward()
        theirs(input_ids=ids, labels=ids).loss.backward()
        for optimiser in (mine, other):
            optimiser.step()
        hooks.after_step(step, TOTAL)
        theirs.base_model.update_and_allocate(step)
        for optimiser in (mine, other):
            optimiser.zero_grad()
    final = {n: a.alive.tolist() for n, a in svd(ours).items()}
    assert final == their_ranks(ours, theirs)
    counts = [sum(alive) for alive in final.values()]
    assert sum(counts) == TARGET * len(counts)
    assert len(set(counts)) > 1, "an even spread would prove nothing"
