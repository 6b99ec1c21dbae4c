"""Which state is kept, and the share of noise in AdamW's moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.training import Stage, carry_out, learnt_by, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lowbit.core.spec import TrainSpec
from lowbit.tasks.base import Example
from lowbit.train import loop
from lowbit.train.checkpoint import Position
from lowbit.train.evaluate import ExampleScores
from lowbit.train.hooks import Hooks
from lowbit.train.state import TrainState


@pytest.mark.parametrize(
    ("name", "values", "keep", "kept"),
    [
        ("llama, dropout", (3.0, 1.0, 2.0), "best", 1),
        ("llama, dropout", (1.0, 1.0, 2.0), "best", 0),
        ("bert, accumulated", (0.3, 0.9, 0.6), "best", 1),
        ("bert, accumulated", (0.9, 0.9, 0.3), "best", 0),
    ],
)
def test_the_state_that_is_kept_is_the_one_that_was_declared(
    scene: Stage, name: str, values: tuple[float, ...], keep: Any, kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    here = scene(name)
    here = replace(here, train=replace(here.train, epochs=3, keep=keep))
    states: list[dict[str, Tensor]] = []

    def scripted(model: nn.Module, part: Sequence[Example], *_: Any) -> tuple[ExampleScores, float]:
        assert part is here.parts["selection"]
        states.append(learnt_by(model))
        return [(values[len(states) - 1], 1)], 1.0

    monkeypatch.setattr(loop, "evaluate", scripted)
    ended = carry_out(here)
    assert same_bits(ended.learnt, states[kept])
    assert not same_bits(states[0], states[1])
    assert not same_bits(states[1], states[2])
    best = values.index(min(values) if here.start.kind == "language" else max(values))
    assert ended.outcome.position.best_step == 2 * (best + 1)
    assert ended.outcome.position.best_value == values[best]


def test_the_last_state_is_kept_where_that_was_declared(
    scene: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = scene("llama, dropout")
    here = replace(here, train=replace(here.train, epochs=3, keep="last"))
    states: list[dict[str, Tensor]] = []

    def scripted(model: nn.Module, *_: Any) -> tuple[ExampleScores, float]:
        states.append(learnt_by(model))
        return [(1.0 + len(states), 1)], 1.0

    monkeypatch.setattr(loop, "evaluate", scripted)
    ended = carry_out(here)
    assert len(states) == 3
    assert same_bits(ended.learnt, states[-1])
    assert not same_bits(ended.learnt, states[0])


def test_looking_at_the_selection_split_changes_no_bit_of_training(scene: Stage) -> None:
    here = scene("bert, accumulated")
    here = replace(here, train=replace(here.train, keep="last"))
    other = replace(here, parts={**here.parts, "selection": here.parts["scored"][:1]})
    assert same_bits(carry_out(here).learnt, carry_out(other).learnt)


@given(st.floats(0.5, 5.0), st.integers(0, 3))
@settings(deadline=None, max_examples=20)
def test_the_share_of_noise_in_gradients_is_found_whatever_clipping_does(
    spread: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(40, 50, bias=False)
    state = TrainState(model, TrainSpec(lr=0.0), Hooks(), Position("f"), torch.device("cpu"))
    assert state.noise_share() == 0.0
    mean = torch.randn(50, 40)
    for _ in range(200):
        model.weight.grad = mean + spread * torch.randn(50, 40)
        nn.utils.clip_grad_norm_([model.weight], 1.0)
        state.optimiser.step()
    square = float(mean.square().mean())
    expected = spread**2 / (square + spread**2)
    assert state.noise_share() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("steps", [2, 3, 5, 20])
def test_the_share_of_noise_does_not_depend_on_how_many_steps_were_made(steps: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(400, 500, bias=False)
    state = TrainState(model, TrainSpec(lr=0.0), Hooks(), Position("f"), torch.device("cpu"))
    mean = torch.randn(500, 400)
    model.weight.grad = mean.clone()
    state.optimiser.step()
    assert state.noise_share() == 1.0, "one gradient says nothing: all of it counts as noise"
    state = TrainState(model, TrainSpec(lr=0.0), Hooks(), Position("f"), torch.device("cpu"))
    for _ in range(steps):
        model.weight.grad = mean + 2 * torch.randn(500, 400)
        state.optimiser.step()
    assert state.noise_share() == pytest.approx(0.8, abs=0.02)
