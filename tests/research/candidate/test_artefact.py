"""Which artefacts are valid, which are refused, and how the evaluator scores them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.artefacts import write_artefact
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowbit.core.spec import BLOCK_ROLES
from lowbit.models.checkpoint import open_checkpoint
from lowbit.models.family import find_sites
from lowbit.research.candidate.artefact import NAME, RefusedError, read
from lowbit.research.candidate.evaluator import score

Folder = Callable[[str], Path]
TEXT = ["the cat sat on the mat and looked at the dog", "a dog ran over the hill and far away"]


@pytest.fixture(scope="module")
def base(tiny_model: Folder) -> Path:
    return tiny_model("llama")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.json"
    path.write_text(json.dumps(TEXT))
    return path


def answer_for(base: Path, artefact: Path, text: Path) -> dict[str, Any]:
    """The line of JSON that an evaluator process prints."""
    texts = {"screening": str(text)}
    request = {"model": str(base), "artefact": str(artefact), "texts": texts, "threads": 1}
    command = [sys.executable, "-m", "lowbit.research.candidate.evaluator", json.dumps(request)]
    process = subprocess.run(
        command, input="go\n", capture_output=True, text=True, check=True, timeout=120
    )
    answer: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return answer


def test_an_evaluator_without_a_start_line_ends_without_output(base: Path, text: Path) -> None:
    """The loop was killed or the candidate failed, so it must not wait for ever."""
    request = {"model": str(base), "artefact": "nowhere", "texts": {"screening": str(text)}}
    command = [sys.executable, "-m", "lowbit.research.candidate.evaluator", json.dumps(request)]
    process = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True
    )
    assert process.stdout == ""


def refusal(base: Path, folder: Path) -> str:
    with pytest.raises(RefusedError) as error:
        read(folder, open_checkpoint(base))
    return str(error.value)


def test_a_valid_artefact_is_read_with_its_size(base: Path, tmp_path: Path) -> None:
    tensors = write_artefact(base, tmp_path / "a")
    artefact = read(tmp_path / "a", open_checkpoint(base))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    assert artefact.stored == total
    blocks = [s for s in find_sites(artefact.model, open_checkpoint(base).matrices)
              if s.role in BLOCK_ROLES]  # fmt: skip
    assert artefact.bits == pytest.approx(8 * total / sum(s.shape[0] * s.shape[1] for s in blocks))
    for site in blocks:
        weight = artefact.model.get_submodule(site.name).weight  # type: ignore
        assert len(weight[0, :32].abs().unique()) <= 2  # type: ignore
    assert 0 < artefact.zero < 1


def test_an_added_bias_works_and_counts_towards_the_bits(base: Path, tmp_path: Path) -> None:
    write_artefact(base, tmp_path / "a")
    write_artefact(base, tmp_path / "b", bias=True)
    plain, biased = (read(tmp_path / n, open_checkpoint(base)) for n in "ab")
    assert biased.bits > plain.bits
    tensors = load_file(tmp_path / "b" / NAME)
    name = next(n for n in tensors if n.endswith("down_proj.bias"))
    tensors[name] += 1
    save_file(tensors, tmp_path / "b" / NAME)
    moved = read(tmp_path / "b", open_checkpoint(base)).model
    module = moved.get_submodule(name.removesuffix(".bias"))
    assert torch.equal(module(torch.zeros(1, module.in_features))[0], tensors[name].float())  # type: ignore


def test_the_evaluators_loss_is_the_models_loss(base: Path, tmp_path: Path, text: Path) -> None:
    write_artefact(base, tmp_path / "a")
    rows = torch.randint(0, 60, (3, 25), dtype=torch.int32)
    (tmp_path / "check.json").write_text(json.dumps(rows.tolist()))
    scores = score(str(base), tmp_path / "a", {"screening": text}, tmp_path / "check.json")
    sums, counts = scores.texts["screening"]
    assert len(sums) == len(counts) == len(TEXT)
    assert scores.loss("screening") == pytest.approx(sum(sums) / sum(counts))
    body = answer_for(base, tmp_path / "a", text)
    assert sum(body["texts"]["screening"][0]) == pytest.approx(sum(sums), rel=1e-4)
    model = read(tmp_path / "a", open_checkpoint(base)).model
    from lowbit.models.checkpoint import tokenizer_of

    tokenizer = tokenizer_of(base)
    end = tokenizer.eos_token_id
    ids = torch.tensor([[end, *tokenizer(TEXT[0])["input_ids"], end]])
    with torch.no_grad():
        logits = model(input_ids=ids[:, :-1]).logits[0]
    loss = nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    assert sums[0] == pytest.approx(float(loss), rel=1e-3)
    with torch.no_grad():
        logits = model(input_ids=rows[:, :-1].long()).logits
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten().long())
    assert scores.check == pytest.approx(math.exp(float(loss)), rel=1e-4)


# --- cheating -------------------------------------------------------------------------------------


def altered(base: Path, where: Path, change: Callable[[dict[str, Tensor]], None]) -> str:
    tensors = write_artefact(base, where)
    change(tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, where / NAME)
    return refusal(base, where)


def test_weights_that_are_not_ternary_are_refused(base: Path, tmp_path: Path) -> None:
    def plain(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.endswith("q_proj.codes"))
        rows = tensors.pop(name).shape[0]
        tensors[name.replace(".codes", ".weight")] = torch.randn(rows, 64).to(torch.float16)

    assert "scales" in altered(base, tmp_path / "a", plain) or "lacks" in refusal(
        base, tmp_path / "a"
    )

    def digits(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.endswith("q_proj.codes"))
        tensors[name][0, 0] = 250

    assert "does not encode five" in altered(base, tmp_path / "b", digits)

    def finer(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.endswith("q_proj.scales"))
        rows = tensors[name].shape[0]
        tensors[name] = torch.zeros(rows, 5, dtype=torch.int16)

    assert "scales a row" in altered(base, tmp_path / "c", finer), (
        "a scale a weight is full precision"
    )


def test_superfluous_or_wrong_tensors_are_refused(base: Path, tmp_path: Path) -> None:
    def extra(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.9.mlp.up_proj.weight"] = torch.zeros(4, 4, dtype=torch.float16)

    assert "the model lacks" in altered(base, tmp_path / "a", extra)

    def leftover(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.endswith("up_proj.codes"))
        tensors[name.replace(".codes", ".weight")] = torch.zeros(64, 64, dtype=torch.float16)

    assert "the model lacks" in altered(base, tmp_path / "b", leftover)

    def wide(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.endswith("norm.weight"))
        tensors[name] = tensors[name].float()

    assert "float32" in altered(base, tmp_path / "c", wide)

    def matrix(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.endswith("up_proj.codes"))
        tensors[name.replace(".codes", ".bias")] = torch.zeros(64, 64, dtype=torch.float16)

    assert "bias is" in altered(base, tmp_path / "d", matrix)


def test_values_that_are_not_finite_are_refused(base: Path, tmp_path: Path) -> None:
    def scale(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.endswith("q_proj.scales"))
        tensors[name] = torch.full_like(tensors[name].view(torch.float16), math.nan).view(
            torch.int16
        )

    assert "not finite" in altered(base, tmp_path / "a", scale)

    def norm(tensors: dict[str, Tensor]) -> None:
        name = next(n for n in tensors if n.endswith("norm.weight"))
        tensors[name][0] = math.inf

    assert "not finite" in altered(base, tmp_path / "b", norm)


def test_a_missing_damaged_or_linked_file_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert "left no" in refusal(base, tmp_path / "a")
    write_artefact(base, tmp_path / "b")
    content = (tmp_path / "b" / NAME).read_bytes()
    (tmp_path / "b" / NAME).write_bytes(content[:-20])
    assert "damaged" in refusal(base, tmp_path / "b")
    write_artefact(base, tmp_path / "real")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / NAME).symlink_to(tmp_path / "real" / NAME)
    assert "left no" in refusal(base, tmp_path / "c")

    def short(tensors: dict[str, Tensor]) -> None:
        del tensors[next(n for n in tensors if n.endswith("embed_tokens.weight"))]

    assert "lacks" in altered(base, tmp_path / "d", short)


def test_the_reason_of_a_refusal_reaches_the_loop(base: Path, tmp_path: Path, text: Path) -> None:
    (tmp_path / "a").mkdir()
    assert "left no" in answer_for(base, tmp_path / "a", text)["refused"]
