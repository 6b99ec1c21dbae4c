"""When a cached table or a cached change of outputs is reused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import opened
from helpers.sensitivity import Folder

from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.runs.build import build_untrained
from lowbit.runs.device import cpu_machine
from lowbit.runs.prepare import prepare_run
from lowbit.sensitivity import measure
from lowbit.sensitivity.measure import OutputChanges, _architecture
from lowbit.sensitivity.table import Calibration


def test_the_same_weights_otherwise_put_together_are_another_model(tiny_model: Folder) -> None:
    config = opened(tiny_model("llama")).checkpoint.config
    before = _architecture(config)
    config._name_or_path = "elsewhere"
    assert _architecture(config) == before
    config.rms_norm_eps *= 10
    assert _architecture(config) != before


def test_what_a_stored_model_does_is_measured_once(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again for other formats, other text, or fewer sequences of it."""
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    task = TaskSpec(str(tiny_text), window=24)
    spec = RunSpec(str(tiny_model("llama")), task, Plan("own", "bf16"), TrainSpec(), 0)
    prepared, opens, real = prepare_run(spec), list[int](), measure._open

    def counting(*words: object, **named: object) -> object:
        opens.append(1)
        return real(*words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "_open", counting)
    site = "model.layers.0.mlp.up_proj"
    two, three = {site: "int2@16"}, {site: "int3@16"}
    with OutputChanges(prepared, Calibration(60)) as measured:
        first, other = measured.of(two), measured.of(three)
    assert len(opens) == 1
    assert first.kl > other.kl > 0
    with OutputChanges(prepared, Calibration(60)) as measured:
        assert measured.of(two) == first
    assert len(opens) == 1, "both were in the cache"
    with OutputChanges(prepared, Calibration(60)) as measured:
        assert measured.of(two, every=2) != first
        assert measured.of(two) == first
    with OutputChanges(prepared, Calibration(60, parts=("selection",))) as measured:
        assert measured.of(two) != first
    assert len(opens) == 3


def test_a_calibrated_plan_is_run_with_the_weights_that_a_run_stores(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    task = TaskSpec(str(tiny_text), window=24)
    plan = Plan("stored", "int3@16", embedding="bf16", rank=0, adapter="none")
    plan = replace(plan, rounding="calibrated")
    spec = RunSpec(str(tiny_model("llama")), task, plan, TrainSpec(), 0)
    prepared = prepare_run(spec)
    built = build_untrained(prepared, cpu_machine())
    blocks = [site.name for site in built.sites if site.depth is not None]
    formats = dict.fromkeys(blocks, "int3@16")
    with OutputChanges(prepared, Calibration(60)) as measured:
        change = measured.of(formats, 1, "calibrated")
        assert change != measured.of(formats)
        assert change == measured.of(formats, 1, "calibrated")
        model, _ = measured._reference(1)
        errors = model.errors(formats, measured._rounded(formats, "calibrated", model))
        for name in blocks:
            stored = built.model.get_submodule(name).frozen.weight(torch.float32)
            torch.testing.assert_close(model.weight(name) + errors[name], stored)
