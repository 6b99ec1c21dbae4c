"""When a cached table is reused."""

from __future__ import annotations

from helpers.models import opened
from helpers.sensitivity import Folder

from lowbit.sensitivity.measure import _architecture


def test_the_same_weights_otherwise_put_together_are_another_model(tiny_model: Folder) -> None:
    config = opened(tiny_model("llama")).checkpoint.config
    before = _architecture(config)
    config._name_or_path = "elsewhere"
    assert _architecture(config) == before
    config.rms_norm_eps *= 10
    assert _architecture(config) != before
