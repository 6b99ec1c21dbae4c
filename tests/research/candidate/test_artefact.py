"""What a candidate may leave, what it may not, and whose number counts."""

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
from lowbit.models.family import find_sites
from lowbit.models.loading import open_checkpoint
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


def said_by(base: Path, artefact: Path, text: Path) -> dict[str, Any]:
    """The line of the evaluator's own process."""
    texts = {"screening": str(text)}
    asked = {"model": str(base), "artefact": str(artefact), "texts": texts, "threads": 1}
    command = [sys.executable, "-m", "lowbit.research.candidate.evaluator", json.dumps(asked)]
    said = subprocess.run(
        command, input="go\n", capture_output=True, text=True, check=True, timeout=120
    )
    found: dict[str, Any] = json.loads(said.stdout.strip().splitlines()[-1])
    return found


def test_an_evaluator_that_nobody_needs_ends_and_says_nothing(base: Path, text: Path) -> None:
    """The loop was killed, or the candidate failed: it must not wait for ever."""
    asked = {"model": str(base), "artefact": "nowhere", "texts": {"screening": str(text)}}
    command = [sys.executable, "-m", "lowbit.research.candidate.evaluator", json.dumps(asked)]
    said = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True
    )
    assert said.stdout == ""


def refusal(base: Path, folder: Path) -> str:
    with pytest.raises(RefusedError) as said:
        read(folder, open_checkpoint(base))
    return str(said.value)


def test_an_honest_artefact_is_read_as_it_was_left(base: Path, tmp_path: Path) -> None:
    tensors = write_artefact(base, tmp_path / "a")
    found = read(tmp_path / "a", open_checkpoint(base))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    assert found.stored == total
    blocks = [s for s in find_sites(found.model, open_checkpoint(base).matrices)
              if s.role in BLOCK_ROLES]  # fmt: skip
    assert found.bits == pytest.approx(8 * total / sum(s.shape[0] * s.shape[1] for s in blocks))
    for site in blocks:
        weight = found.model.get_submodule(site.name).weight  # type: ignore
        assert len(weight[0, :32].abs().unique()) <= 2  # type: ignore
    assert 0 < found.zero < 1


def test_a_bias_that_training_added_works_and_counts(base: Path, tmp_path: Path) -> None:
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


def test_the_evaluators_number_is_the_models_own_loss(
    base: Path, tmp_path: Path, text: Path
) -> None:
    write_artefact(base, tmp_path / "a")
    rows = torch.randint(0, 60, (3, 25), dtype=torch.int32)
    (tmp_path / "check.json").write_text(json.dumps(rows.tolist()))
    found = score(str(base), tmp_path / "a", {"screening": text}, tmp_path / "check.json")
    sums, counts = found.texts["screening"]
    assert len(sums) == len(counts) == len(TEXT)
    assert found.loss("screening") == pytest.approx(sum(sums) / sum(counts))
    body = said_by(base, tmp_path / "a", text)
    assert sum(body["texts"]["screening"][0]) == pytest.approx(sum(sums), rel=1e-4)
    model = read(tmp_path / "a", open_checkpoint(base)).model
    from lowbit.models.loading import tokenizer_of

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
    assert found.check == pytest.approx(math.exp(float(loss)), rel=1e-4)


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


def test_capacity_has_no_place_to_hide(base: Path, tmp_path: Path) -> None:
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


def test_what_is_no_number_is_refused(base: Path, tmp_path: Path) -> None:
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


def test_a_missing_torn_or_linked_file_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert "left no" in refusal(base, tmp_path / "a")
    write_artefact(base, tmp_path / "b")
    whole = (tmp_path / "b" / NAME).read_bytes()
    (tmp_path / "b" / NAME).write_bytes(whole[:-20])
    assert "damaged" in refusal(base, tmp_path / "b")
    write_artefact(base, tmp_path / "real")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / NAME).symlink_to(tmp_path / "real" / NAME)
    assert "left no" in refusal(base, tmp_path / "c")

    def short(tensors: dict[str, Tensor]) -> None:
        del tensors[next(n for n in tensors if n.endswith("embed_tokens.weight"))]

    assert "lacks" in altered(base, tmp_path / "d", short)


def test_what_a_refused_artefact_says_reaches_the_loop(
    base: Path, tmp_path: Path, text: Path
) -> None:
    (tmp_path / "a").mkdir()
    assert "left no" in said_by(base, tmp_path / "a", text)["refused"]
