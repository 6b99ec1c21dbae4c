"""A run is warned when its gradients become noisier, and only then."""

from __future__ import annotations

from collections.abc import ValuesView
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training import TRAIN, Scene, Stage, carry_out
from torch import Tensor, nn


def hundred_steps(scene: Stage, **settings: Any) -> Scene:
    start = scene("llama, dropout")
    train = replace(
        TRAIN, epochs=50, steps=100, warmup=0.1, select="end", keep="last", lr=1e-3, **settings
    )
    return replace(start, train=train)


@pytest.mark.parametrize("log_every", [1, 7, 30])
def test_a_run_whose_gradients_become_noisy_is_told_however_often_it_logs(
    scene: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    made, clip = count(1), nn.utils.clip_grad_norm_

    def noise_instead(parameters: ValuesView[nn.Parameter], most: float) -> Tensor:
        step = next(made)
        source = torch.Generator().manual_seed(step)
        # The first steps' gradients are far larger than any later: no measure of what is usual.
        size = 30.0 if step <= 10 else 1.0 if step <= 60 else 3.0
        for parameter in parameters:
            parameter.grad = size * torch.randn(parameter.shape, generator=source)
        return clip(parameters, most)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", noise_instead)
    found = carry_out(hundred_steps(scene, log_every=log_every), tmp_path)
    (line,) = [line for line in found.lines if "warning" in line]
    assert 60 < line["step"] <= 100
    assert len(line["warning"]) < 75, "a study of many runs says it of each"


@pytest.mark.parametrize("log_every", [1, 10])
def test_a_run_of_ordinary_gradients_is_told_nothing(
    scene: Stage, tmp_path: Path, log_every: int
) -> None:
    found = carry_out(hundred_steps(scene, log_every=log_every), tmp_path)
    assert [line for line in found.lines if "grad_variance" in line][-1]["grad_variance"] > 0
    assert not [line for line in found.lines if "warning" in line]
