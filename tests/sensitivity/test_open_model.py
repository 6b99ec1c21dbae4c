"""A model opened for measuring: its blocks stay in the checkpoint until they are used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.sensitivity import REQUEST, Folder

from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.site_curvature import as_site, weights_of
from lowbit.curvature.weight_errors import in_bf16
from lowbit.models.loading import load
from lowbit.runs.prepare import prepare_run
from lowbit.sensitivity.build_table import build_table
from lowbit.sensitivity.calibration import calibration_text
from lowbit.sensitivity.open_model import open_model
from lowbit.sensitivity.table import to_text


@pytest.mark.parametrize("family", ["llama", "llama-untied", "gpt2", "qwen3"])
def test_blocks_read_when_they_are_used_are_measured_as_a_whole_model_is(
    family: str, tiny_model: Folder, tiny_text: Path
) -> None:
    """Every predictor, the expensive ones included; and no block stays in memory."""
    task = TaskSpec(str(tiny_text), window=24)
    spec = RunSpec(str(tiny_model(family)), task, Plan("own", "bf16"), TrainSpec(), 0)
    prepared = prepare_run(spec)
    text = calibration_text(prepared, 60, least=1)
    opened = open_model(prepared, text)
    whole = load(prepared.checkpoint, "language", 0, prepared.pad).float()
    base = {s.name: opened.weight(s.name).clone() for s in opened.sites}
    with torch.no_grad():
        for name, weight in weights_of(whole, opened.sites).items():
            weight.copy_(as_site(whole, name, in_bf16(base[name])))
    full = MeasuredModel(whole, opened.sites, *text[:1], base=base, documents=text[1])
    request = replace(REQUEST, formats=("int4@16", "int8@16"), costed=True)
    tables = [to_text(build_table(model, request, ("a", "b"))) for model in (opened, full)]
    assert tables[0] == tables[1]
    held = {s.name for s in opened.sites if not weights_of(opened.module, [s])[s.name].is_meta}
    assert held == {site.name for site in opened.sites if site.depth is None}
