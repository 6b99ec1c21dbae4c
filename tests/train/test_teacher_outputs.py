"""A compressed teacher: its divergence, its size and its features."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lowbit.train.teacher_outputs import (
    compress_outputs,
    direction_error,
    divergence,
    feature_error,
)


@given(st.integers(0, 100), st.sampled_from([1, 5, 20, 50]))
@settings(max_examples=25, deadline=None)
def test_a_kept_teacher_diverges_no_more_than_the_whole_one(seed: int, k: int) -> None:
    source = torch.Generator().manual_seed(seed)
    teacher, student = (2 * torch.randn(6, 50, generator=source) for _ in range(2))
    whole = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True,
                     reduction="batchmean")  # fmt: skip
    found = divergence(student, compress_outputs(teacher, k))
    assert -1e-3 <= float(found) <= float(whole) * 1.01 + 1e-3
    assert float(divergence(teacher, compress_outputs(teacher, k))) == pytest.approx(0.0, abs=2e-3)
    if k == 50:
        assert float(found) == pytest.approx(float(whole), rel=0.02, abs=5e-3)


def test_a_teacher_takes_few_bytes_a_token() -> None:
    features = {3: torch.randn(10, 16)}
    kept = compress_outputs(torch.randn(10, 5000), 8, features)
    assert kept.nbytes == 10 * (8 * 2 + 8 * 4 + 2 + 16 * 2)


def test_features_are_held_to_direction_or_to_distance() -> None:
    features = {1: torch.randn(9, 12), 4: torch.randn(9, 12)}
    kept = compress_outputs(torch.randn(9, 20), 4, features)
    scaled = {layer: 3 * t for layer, t in features.items()}
    turned = {layer: -t for layer, t in features.items()}
    assert float(direction_error(features, kept)) == pytest.approx(0.0, abs=1e-3)
    assert float(direction_error(scaled, kept)) == pytest.approx(0.0, abs=1e-3)
    assert float(direction_error(turned, kept)) == pytest.approx(2.0, abs=1e-3)
    assert float(feature_error(scaled, kept)) == pytest.approx(4.0, rel=0.01)
