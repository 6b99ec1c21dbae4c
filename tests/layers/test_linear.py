"""Laws of the layers: one format has one meaning, whatever the mode, the residency or the cast."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.layers import (
    MIXED,
    ROWS,
    Folder,
    batch_of,
    every_family,
    every_format,
    packed,
)
from helpers.models import PlannedModel, installed, opened, some_ids, stir
from torch import Tensor, nn

from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan
from lowbit.layers import frozen
from lowbit.layers.frozen import FrozenMatrix
from lowbit.layers.install import adapters
from lowbit.layers.linear import AdaptedLinear
from lowbit.models.skeleton import Kind
from lowbit.tasks.base import Example
from lowbit.tasks.batching import batches
from lowbit.train.evaluate import evaluate
from lowbit.train.losses import training_loss


def gradients(made: PlannedModel, kind: Kind) -> dict[str, Tensor]:
    """Of one training step, dropout drawn from the same seed each time."""
    torch.manual_seed(11)
    made.model.train()
    made.model.zero_grad(set_to_none=True)
    loss, labels = training_loss(made.model, kind, batch_of(kind))
    (loss / labels).backward()
    found = {n: p.grad for n, p in made.model.named_parameters() if p.grad is not None}
    assert found
    return {n: gradient.clone() for n, gradient in found.items()}


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


@every_format
@pytest.mark.parametrize("cast", ["bfloat16", "half", "double"])
def test_casting_a_model_changes_nothing_that_is_stored(text: str, cast: str) -> None:
    layer = AdaptedLinear(FrozenMatrix(packed(text)), torch.randn(ROWS), None)
    before = {n: t.clone() for n, t in layer.frozen.packed.tensors().items()}
    expected = layer.frozen.weight(torch.float32)
    getattr(layer, cast)()
    after = layer.frozen.packed.tensors()
    assert {n: t.dtype for n, t in after.items()} == {n: t.dtype for n, t in before.items()}
    assert same_bits(after, before)
    assert torch.equal(layer.frozen.weight(torch.float32), expected)


@every_family
@pytest.mark.parametrize(
    ("residency", "compute"), [("packed", torch.bfloat16), ("decoded", torch.float32)], ids=str
)
def test_an_evaluation_pass_changes_no_bit_of_later_gradients(
    tiny_model: Folder, name: str, kind: Kind, residency: frozen.Residency, compute: torch.dtype
) -> None:
    start = opened(tiny_model(name), kind)
    made = installed(start, MIXED, compute=compute, residency=residency)
    stir(made.model)
    before, state = gradients(made, kind), copied(made.model)
    part = tuple(examples(kind))
    evaluate(made.model, part, kind, 2, torch.device("cpu"))
    assert made.model.training
    assert same_bits(copied(made.model), state)
    assert same_bits(gradients(made, kind), before)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def examples(kind: Kind) -> Iterator[Example]:
    for row in some_ids(3, 9).numpy():
        target = np.array([1]) if kind == "classification" else np.roll(row, -1)
        yield Example(row, target, 0, 1, kind)


@every_family
@pytest.mark.parametrize("schedule", ["fixed", "adalora"])
def test_training_and_evaluation_compute_the_same_where_nothing_drops_out(
    tiny_model: Folder, name: str, kind: Kind, schedule: str
) -> None:
    plan = Plan("p", "int3@16", rank=3, schedule=RankSchedule(schedule, target=1))  # type: ignore
    made = installed(opened(tiny_model(name), kind), plan)
    stir(made.model)
    for module in made.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for module in made.model.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    (part,) = batches(list(examples(kind)), 3, [0, 1, 2])
    losses = []
    for mode in (True, False, True):
        made.model.train(mode)
        with torch.set_grad_enabled(mode):
            losses.append(training_loss(made.model, kind, part)[0].detach())
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@every_family
def test_evaluation_mode_merges_nothing(tiny_model: Folder, name: str, kind: Kind) -> None:
    made = installed(opened(tiny_model(name), kind), MIXED)
    stir(made.model)
    kinds = [type(module) for module in made.model.modules()]
    held, state = set(adapters(made.model)), copied(made.model)
    made.model.eval()
    assert [type(module) for module in made.model.modules()] == kinds
    assert set(adapters(made.model)) == held
    assert same_bits(copied(made.model), state)
    made.model.train()
    assert same_bits(copied(made.model), state)
