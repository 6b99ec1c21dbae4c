"""A model comes from a folder, from the assets or from the hub, and never from a pickle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from helpers.models import opened
from safetensors.torch import load_file, save_file
from torch import Tensor

from lowbit.core.errors import RunError, UserError
from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.models.checkpoint import PICKLES, open_checkpoint
from lowbit.models.find_model import PATTERNS, resolve
from lowbit.models.loading import load
from lowbit.models.skeleton import skeleton
from lowbit.runs.check import check_runs
from lowbit.study.execute import IN_ADAPT


def test_a_hub_id_is_fetched_without_its_pickles(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[[str], Path]
) -> None:
    asked: dict[str, Any] = {}

    def fetch(reference: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(reference=reference, revision=revision, patterns=allow_patterns)
        return str(tiny_model("llama"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve("owner/name") == tiny_model("llama")
    assert asked == {"reference": "owner/name", "revision": None, "patterns": PATTERNS}
    assert resolve("owner/name@refs/pr/4") == tiny_model("llama")
    assert (asked["reference"], asked["revision"]) == ("owner/name", "refs/pr/4")
    assert not set(PATTERNS) & set(PICKLES)


def test_a_hub_id_that_has_only_pickles_is_told_where_safetensors_may_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = ["config.json", "pytorch_model.bin"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: files)
    with pytest.raises(UserError, match=r"\(pytorch_model.bin\).*owner/name@refs/pr/N"):
        resolve("owner/name")
    files.append("model.safetensors")  # asked for what is not there any more: no such reason
    files.remove("pytorch_model.bin")
    assert resolve("owner/name") == tmp_path


def test_two_revisions_of_a_model_have_runs_of_two_names() -> None:
    def name(model: str) -> str:
        return RunSpec(model, TaskSpec("demo"), Plan("bf16"), TrainSpec(), 0).name

    assert name("owner/name@refs/pr/4") == "name@refs_pr_4-demo-bf16-seed0"
    assert name("owner/name") == "name-demo-bf16-seed0"
    assert name("./some@where/name") == "name-demo-bf16-seed0"


@pytest.fixture
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)


@pytest.mark.usefixtures("_no_hub")
def test_an_unreachable_hub_is_what_happened_not_a_traceback() -> None:
    with pytest.raises(RunError, match="could not fetch 'owner/name'") as caught:
        resolve("owner/name")
    said = str(caught.value)
    assert "Missing here: config.json, model.safetensors and tokenizer.json" in said
    assert "workload" not in said
    with pytest.raises(RunError, match="these files: --model FOLDER"):
        resolve("owner/name", "--model FOLDER")


@pytest.mark.usefixtures("_no_hub")
def test_each_command_names_its_own_way_to_give_a_folder() -> None:
    run = RunSpec("owner/name", TaskSpec("demo"), Plan("bf16"), TrainSpec(compute="fp32"), 0)
    execution = Execution(device="cpu", threads=1)
    with pytest.raises(RunError, match=r"workload\.N\.model=FOLDER"):
        check_runs((run,), execution)
    with pytest.raises(RunError, match=r"these files: lowbit adapt FOLDER$"):
        check_runs((run,), execution, IN_ADAPT)


def test_an_asset_is_named_by_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    monkeypatch.setenv("LOWBIT_ASSETS", str(tmp_path))
    assert resolve("assets:small") == tmp_path / "models" / "small"
    with pytest.raises(UserError, match="Did you mean 'small'"):
        resolve("assets:smal")
    monkeypatch.delenv("LOWBIT_ASSETS")
    with pytest.raises(UserError, match="LOWBIT_ASSETS"):
        resolve("assets:small")


def test_a_skeleton_holds_no_weights(tiny_model: Callable[[str], Path]) -> None:
    model = skeleton(open_checkpoint(tiny_model("gpt2")), "language")
    assert all(p.device.type == "meta" for p in model.parameters())


def changed(folder: Path, to: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of a model folder with other weights."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_weights_that_are_missing_are_named_and_never_made_up(
    tiny_model: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = changed(tiny_model("llama"), tmp_path / "m", lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=f"its weights lack '{name}'"):
        load(open_checkpoint(folder), "language")


def test_weights_of_another_shape_than_declared_are_named_with_both_shapes(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = changed(
        tiny_model("bert"),
        tmp_path / "m",
        lambda tensors: tensors.update({"classifier.weight": torch.zeros(3, 32)}),
    )
    said = r"'classifier.weight' is \(3, 32\) in the weights, but .* require \(2, 32\)"
    with pytest.raises(UserError, match=said):
        load(open_checkpoint(folder), "classification", 2, 0)


@pytest.mark.parametrize("wide", ["norm", "proj"])
def test_what_is_no_matrix_is_counted_in_its_own_type(
    tiny_model: Callable[[str], Path], tmp_path: Path, wide: str
) -> None:
    def widen(tensors: dict[str, Tensor]) -> None:
        tensors.update({n: t.float() for n, t in tensors.items() if wide in n})

    start = opened(changed(tiny_model("llama"), tmp_path / "m", widen))
    tensors = load_file(start.checkpoint.folder / "model.safetensors")
    count = start.counted(Plan("any", "bf16", rank=1)).count
    assert count.other == sum(t.numel() * t.element_size() for t in tensors.values() if t.dim() < 2)


@pytest.mark.hub
def test_the_documents_model_is_read_or_it_is_said_how() -> None:
    from original_plan.fine_tune import HUB

    from lowbit.models.family import find_sites

    said, sites = "", 0
    try:
        checkpoint = open_checkpoint(resolve(HUB))
        sites = len(find_sites(skeleton(checkpoint, "language"), checkpoint.matrices))
    except UserError as error:
        said = str(error)
    assert sites == 24 * 4 + 1 or "refs/pr/N" in said


@pytest.mark.hub
def test_a_model_of_the_hub_has_the_sites_of_its_family() -> None:
    from lowbit.models.family import find_sites

    checkpoint = open_checkpoint(resolve("HuggingFaceTB/SmolLM2-135M"))
    sites = find_sites(skeleton(checkpoint, "language"), checkpoint.matrices)
    assert len(sites) == 30 * 7 + 1
    assert sites[0].aliases == ("lm_head",)
