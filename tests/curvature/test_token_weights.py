"""Token weights: the squared gradients of each matrix's outputs, for labels drawn from the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.models import batch_of, opened, some_ids
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.passes import passing
from lowbit.curvature.token_weights import token_weights
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


def squared_slopes(model: MeasuredModel, name: str) -> Tensor:
    """By one backward pass through the whole model for each sequence."""
    squares: list[Tensor] = []
    module = model.module.get_submodule(name)

    def forward(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(lambda g: squares.append(g.reshape(-1, g.shape[-1]).square().sum(1)))

    all_labels = drawn_labels(model)
    handle = module.register_forward_hook(forward)
    for batch, labels in zip(model.batches, all_labels, strict=True):
        weight = module.weight.requires_grad_(True)  # type: ignore[union-attr, operator]
        logits = model.head(hidden_of(model.module, batch)[0])
        torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), weight)
    handle.remove()
    return torch.cat(squares)


def test_they_are_the_squared_gradients_of_a_pass_through_the_whole_model(
    model: MeasuredModel,
) -> None:
    weights = token_weights(model, SEED)
    assert set(weights) == {site.name for site in model.block_sites}
    for site in (model.block_sites[0], model.block_sites[-1]):
        expected = squared_slopes(model, site.name)
        torch.testing.assert_close(
            weights[site.name], expected / expected.mean(), rtol=1e-3, atol=1e-5
        )


def test_their_mean_is_one_and_a_seed_decides(model: MeasuredModel) -> None:
    weights, again, other = (token_weights(model, seed) for seed in (SEED, SEED, SEED + 1))
    for name, weight in weights.items():
        assert len(weight) == sum(len(batch.ids) for batch in model.batches)
        assert bool((weight >= 0).all())
        assert float(weight.mean()) == pytest.approx(1, rel=1e-5)
        assert torch.equal(weight, again[name])
    assert any(not torch.equal(weight, other[name]) for name, weight in weights.items())


def test_progress_reaches_its_end(model: MeasuredModel) -> None:
    seen: list[tuple[int, int]] = []
    token_weights(model, SEED, lambda done, total: seen.append((done, total)))
    blocks = len(model.blocks)
    assert seen[0] == (0, 2 * blocks)
    assert seen[-1] == (2 * blocks, 2 * blocks)
