"""Gradients of each matrix's outputs, for labels drawn from the model, against a whole pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.models import batch_of, opened, some_ids
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.output_gradients import OutputGradients, output_gradients, parts_of
from lowbit.curvature.passes import passing
from lowbit.curvature.walk_curvature import Walk
from lowbit.train.losses import hidden_of

Folder = Callable[[str], Path]
SEED = 3


@pytest.fixture(params=["llama", "llama-untied", "gpt2", "qwen3"])
def model(request: pytest.FixtureRequest, tiny_model: Folder) -> MeasuredModel:
    start = opened(tiny_model(request.param), "language")
    batches = [batch_of(row[None, :-1], row[None, 1:]) for row in some_ids(3, 9)]
    return MeasuredModel(start.model().float().eval(), start.sites, batches)


def drawn_labels(model: MeasuredModel) -> list[Tensor]:
    walk = Walk(model, SEED)
    with passing(model.module):
        walk.forward(lambda depth: None)
        list(walk.tail())
    assert walk.head is not None
    return [labels for _, labels in walk.head.drawn]


def gradients_of(model: MeasuredModel, seed: int, rows: int = 0) -> dict[str, OutputGradients]:
    return {site.name: g for site, g in output_gradients(model, seed, rows)}


def slopes_of(model: MeasuredModel, name: str) -> Tensor:
    """By one backward pass through the whole model for each sequence."""
    slopes: list[Tensor] = []
    module = model.module.get_submodule(name)

    def forward(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(lambda g: slopes.append(g.reshape(-1, g.shape[-1])))

    all_labels = drawn_labels(model)
    handle = module.register_forward_hook(forward)
    for batch, labels in zip(model.batches, all_labels, strict=True):
        weight = module.weight.requires_grad_(True)  # type: ignore[union-attr, operator]
        logits = model.head(hidden_of(model.module, batch)[0])
        torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), weight)
    handle.remove()
    return torch.cat(slopes)


def test_weights_and_factors_are_those_of_a_pass_through_the_whole_model(
    model: MeasuredModel,
) -> None:
    found = gradients_of(model, SEED, rows=12)
    assert set(found) == {site.name for site in model.block_sites}
    for site in (model.block_sites[0], model.block_sites[-1]):
        slopes = slopes_of(model, site.name)
        squares = slopes.square().sum(1)
        here = found[site.name]
        torch.testing.assert_close(here.weights, squares / squares.mean(), rtol=1e-3, atol=1e-5)
        unit = squares.sum() / slopes.shape[1]
        parts = slopes.split(parts_of(site.shape[0], 12), 1)
        for factor, part in zip(here.factors, parts, strict=True):
            torch.testing.assert_close(factor, part.t() @ part / unit, rtol=1e-3, atol=1e-5)


def test_no_factors_unless_asked_for(model: MeasuredModel) -> None:
    assert all(not g.factors for g in gradients_of(model, SEED).values())


@pytest.mark.parametrize(("size", "most"), [(576, 1024), (1536, 1024), (5, 2), (1, 4), (7, 7)])
def test_parts_are_as_equal_as_can_be(size: int, most: int) -> None:
    parts = parts_of(size, most)
    assert sum(parts) == size
    assert max(parts) <= most
    assert max(parts) - min(parts) <= 1


def test_their_mean_is_one_and_a_seed_decides(model: MeasuredModel) -> None:
    first, again, other = (gradients_of(model, seed) for seed in (SEED, SEED, SEED + 1))
    for name, found in first.items():
        weight = found.weights
        assert len(weight) == sum(len(batch.ids) for batch in model.batches)
        assert bool((weight >= 0).all())
        assert float(weight.mean()) == pytest.approx(1, rel=1e-5)
        assert torch.equal(weight, again[name].weights)
    assert any(not torch.equal(g.weights, other[name].weights) for name, g in first.items())


def test_progress_reaches_its_end(model: MeasuredModel) -> None:
    seen: list[tuple[int, int]] = []
    list(output_gradients(model, SEED, 0, lambda done, total: seen.append((done, total))))
    blocks = len(model.blocks)
    assert seen[0] == (0, 2 * blocks)
    assert seen[-1] == (2 * blocks, 2 * blocks)


def test_the_states_of_all_sequences_are_one_tensor(model: MeasuredModel) -> None:
    """Many would lie between what a block frees, and leave holes as large as all of it."""
    walk = Walk(model, SEED)
    with passing(model.module):
        walk.forward(lambda depth: None)
    assert len({state.untyped_storage().data_ptr() for state in walk.last}) == 1
