"""The grid of a checkpoint: found in its weights or its GGUF types, and offered to the planner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.gguf_files import write_llama
from safetensors.torch import load_file, save_file

from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.planner.plan_for_budget import plan_for_budget
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse
from lowbit.runs.prepare import Prepared, prepare_run
from lowbit.sensitivity.checkpoint_grid import checkpoint_grid

Folder = Callable[[str], Path]


@pytest.fixture
def on_grid(tiny_model: Folder, tmp_path: Path) -> Path:
    """The tiny Llama, its block matrices rounded to `int4@32:min` and stored in their own type."""
    source, folder = tiny_model("llama"), tmp_path / "on-grid"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "_proj." in name and weight.shape[1] % 32 == 0:
            rounded = decode(encode(weight.float(), parse("int4@32:min")))
            weights[name] = rounded.to(weight.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def prepared(model: Path, text: Path) -> Prepared:
    return prepare_run(
        RunSpec(str(model), TaskSpec(str(text), window=24), Plan("p"), TrainSpec(), 0)
    )


def test_it_is_found_in_the_weights(on_grid: Path, tiny_text: Path) -> None:
    grid = checkpoint_grid(prepared(on_grid, tiny_text))
    assert grid is not None
    assert parse(grid).format == "int4"
    assert parse(grid).group == 32


def test_an_ordinary_checkpoint_has_none(tiny_model: Folder, tiny_text: Path) -> None:
    assert checkpoint_grid(prepared(tiny_model("llama"), tiny_text)) is None
    assert checkpoint_grid(prepared(tiny_model("gpt2"), tiny_text)) is None


@pytest.mark.parametrize(("kind", "grid"), [("Q4_1", "int4@32:steps"), ("F16", None)])
def test_a_gguf_file_says_it(kind: str, grid: str | None, tiny_text: Path, tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf", kind)
    assert checkpoint_grid(prepared(tmp_path / "m.gguf", tiny_text)) == grid


def test_the_planner_offers_it(
    on_grid: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    planned = plan_for_budget(
        on_grid, str(tiny_text), "1MB", formats=["int2@32", "int8@32"], ranks=[2], tokens=100,
        settings={"task.window": 24, "execution.threads": 1},
    )  # fmt: skip
    assert planned.grid is not None
    assert planned.grid in planned.request.formats
