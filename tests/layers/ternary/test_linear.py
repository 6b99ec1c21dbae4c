"""The ternary layer's blend, gradients and recovery settings."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.ternary import layer
from torch import nn
from torch.nn import functional as F

from lowbit.core.schedules import Warmup
from lowbit.layers.ternary.grid import Grid, blocks, join_blocks, ternarise
from lowbit.layers.ternary.linear import (
    Recovery,
    TernaryLinear,
    layers,
    round_activations,
    set_strength,
)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_lambda_blends_and_gradients_pass_straight_through(strength: float) -> None:
    made = layer(Grid(64), strength=strength)
    x, slope = torch.randn(4, 200), torch.randn(4, 6)
    y = made(x)
    codes, scale = ternarise(made.weight.detach(), made.grid)
    held = join_blocks(codes * scale, made.shape, made.grid)
    blended = (1 - strength) * made.weight + strength * held
    assert torch.allclose(y, F.linear(x, blended), atol=1e-5)
    y.backward(slope)
    assert made.weight.grad is not None
    assert torch.allclose(made.weight.grad, slope.t() @ x, atol=1e-5)


def test_dead_weights_have_a_gradient_of_their_own() -> None:
    x, slope = torch.randn(4, 200), torch.randn(4, 6)
    plain, half = layer(Grid(64)), layer(Grid(64), Recovery(gradient=0.5))
    for made in (plain, half):
        made(x).backward(slope)
    dead = join_blocks(plain.codes() == 0, plain.shape, plain.grid)
    assert plain.weight.grad is not None
    assert half.weight.grad is not None
    assert 0 < dead.float().mean() < 1
    assert torch.allclose(half.weight.grad[dead], 0.5 * plain.weight.grad[dead])
    assert torch.equal(half.weight.grad[~dead], plain.weight.grad[~dead])


def test_reactivation_adds_dead_weights_up_as_a_bias_that_trains_them() -> None:
    made = layer(Grid(64), Recovery(reactivation=0.5))
    dead = join_blocks(made.codes() == 0, made.shape, made.grid)
    bias = made.total_bias()
    assert bias is not None
    assert torch.allclose(bias, 0.5 * (made.weight * dead).sum(1), rtol=1e-3)
    made(torch.zeros(3, 200)).sum().backward()
    assert made.weight.grad is not None
    assert made.revival is not None
    assert made.revival.grad is not None
    assert torch.allclose(made.weight.grad, 1.5 * dead), "three tokens, half of each"
    made.strength = 0.0
    assert not made.total_bias().any(), "as strong as the ternary part"  # type: ignore[union-attr]


def test_a_learned_scale_is_trained_by_what_its_codes_say() -> None:
    made = layer(Grid(64, "learned"), strength=0.6)
    x, slope = torch.randn(4, 200), torch.randn(4, 6)
    made(x).backward(slope)
    assert made.scale is not None
    assert made.scale.grad is not None
    expected = 0.6 * (blocks(slope.t() @ x, made.grid) * made.codes()).sum(-1, keepdim=True)
    assert torch.allclose(made.scale.grad, expected, atol=1e-4)
    with torch.no_grad():
        made.scale.mul_(2)
    doubled = made.scales()
    assert torch.allclose(doubled, 2 * layer(Grid(64, "learned")).scales(), rtol=1e-3)


def test_activations_in_eight_bits_are_close_and_let_gradients_through() -> None:
    x = torch.randn(7, 33, requires_grad=True)
    held = round_activations(x)
    found = held.detach()
    largest = x.detach().abs().amax(-1, keepdim=True)
    assert bool(((found - x).abs() <= largest / 127 * 0.51 + 1e-3 * largest).all())
    steps = found / (largest / 127)
    assert float((steps - steps.round()).abs().max()) < 0.2
    held.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))  # type: ignore[arg-type]


def test_zero_dead_and_flipped_weights_are_counted() -> None:
    made = layer(Grid(64))
    first = made.look()
    assert first.zero == first.dead
    assert first.flipped == 0
    with torch.no_grad():
        made.weight[0] = -made.weight[0]
    second = made.look()
    codes = join_blocks(made.codes(), made.shape, made.grid)
    assert second.zero == first.zero
    assert second.flipped == pytest.approx(float((codes[0] != 0).float().sum()) / codes.numel())


def test_the_schedules_lambda_reaches_every_layer() -> None:
    model = nn.Sequential(layer(Grid(64)), nn.Linear(6, 6), layer(Grid("row")))
    set_strength(model, 0.25)
    assert [made.strength for made in layers(model).values()] == [0.25, 0.25]


def test_a_ternary_model_can_be_trained() -> None:
    """Least squares with three values a row: loss falls, and ends within reach of the best."""
    torch.manual_seed(0)
    x = torch.randn(256, 64)
    target = torch.randint(-1, 2, (4, 64)).float() * 0.1
    made = TernaryLinear(0.02 * torch.randn(4, 64), None, Grid("row"))
    warm, optimiser = Warmup("linear", 0.5), torch.optim.Adam(made.parameters(), lr=0.01)
    losses = []
    for step in range(300):
        set_strength(made, warm.at(step / 299))
        loss = (made(x) - x @ target.t()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    agree = (join_blocks(made.codes(), made.shape, made.grid) == target.sign()).float().mean()
    assert float(agree) > 0.95
    assert losses[-1] < 0.05 * losses[0]
    assert math.isfinite(losses[-1])
