"""Weights read one at a time: the same model as transformers loads, in a fraction of the memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.models import CASES, LABELS, PAD, opened
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowbit.core.errors import RunError, UserError
from lowbit.core.spec import Plan
from lowbit.layers.install import LayerSettings, install
from lowbit.layers.linear import TrainedLinear
from lowbit.models.checkpoint import Checkpoint, open_checkpoint
from lowbit.models.weights import blank
from lowbit.plan.rules import choose
from lowbit.quant import codec
from lowbit.quant.formats import parse
from lowbit.runs.encoding_cache import Encodings
from lowbit.train.losses import Kind

Folder = Callable[[str], Path]
CPU = torch.device("cpu")
every_family = pytest.mark.parametrize(("name", "kind"), CASES)


def state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, stored or computed."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def read(checkpoint: Checkpoint, kind: Kind) -> nn.Module:
    model, weights = blank(checkpoint, kind, LABELS, PAD, CPU)
    weights.fill(model, "")
    return model


@every_family
def test_what_is_read_tensor_by_tensor_is_what_transformers_loads(
    tiny_model: Folder, name: str, kind: Kind
) -> None:
    start = opened(tiny_model(name), kind)
    ours, theirs = state(read(start.checkpoint, kind)), state(start.model())
    assert ours.keys() == theirs.keys()
    fresh = tuple(s.name for s in start.sites if s.fresh)
    for key, tensor in theirs.items():
        assert not ours[key].is_meta, key
        if not key.startswith(fresh) or not fresh:
            assert torch.equal(ours[key], tensor), key


@every_family
def test_a_model_installed_without_ever_being_whole_is_the_same_to_the_bit(
    tiny_model: Folder, name: str, kind: Kind
) -> None:
    start = opened(tiny_model(name), kind)
    plan = Plan("p", "int4@16", rank=2, init="residual")
    settings = LayerSettings(plan, torch.float32, 3)
    choices = choose(plan, start.sites)
    whole = start.model()
    install(whole, start.sites, choices, settings)
    model, weights = blank(start.checkpoint, kind, LABELS, PAD, CPU)
    install(model, start.sites, choices, settings, weights)
    ours, theirs = state(model), state(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_never_more_than_one_matrix_is_held_as_it_was(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = opened(tiny_model("llama"))
    plan = Plan("p", "int4@16", rank=2)
    model, weights = blank(start.checkpoint, "language", LABELS, PAD, CPU)
    seen: list[int] = []

    def encoding(name: str, weight: Tensor, spec: object) -> codec.Packed:
        real = [p for p in model.parameters() if p.dim() == 2 and not p.is_meta]
        seen.append(sum(p.is_floating_point() and not p.requires_grad for p in real))
        return codec.encode(weight, spec)  # type: ignore[arg-type]

    settings = LayerSettings(plan, torch.float32, 0)
    install(model, start.sites, choose(plan, start.sites), settings, weights, encoding)
    assert len(seen) == len(start.sites)
    # The matrix itself; what was installed before holds integers, and adapters that train.
    assert max(seen) == 1


def test_a_checkpoint_in_shards_under_old_names_is_read_alike(
    tiny_model: Folder, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    shutil.copytree(tiny_model("bert"), folder)
    tensors = load_file(folder / "model.safetensors")
    named = {
        f"bert.{k}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): t
        for k, t in tensors.items()
    }
    (folder / "model.safetensors").unlink()
    half = len(named) // 2
    for number, keys in enumerate((list(named)[:half], list(named)[half:])):
        save_file({k: named[k] for k in keys}, folder / f"model-{number}.safetensors")
    ours = state(read(open_checkpoint(folder), "classification"))
    theirs = state(read(open_checkpoint(tiny_model("bert")), "classification"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_missing_or_misshapen_weight_is_an_error_that_names_it(
    tiny_model: Folder, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model("llama"), folder)
    tensors = load_file(folder / "model.safetensors")
    key = "model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, key: tensors[key][:5].clone()}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"up_proj\.weight' is \(5, 32\) in the weights"):
        read(open_checkpoint(folder), "language")
    save_file({k: t for k, t in tensors.items() if k != key}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"its weights lack 'model\.layers\.0\.mlp\.up_proj"):
        read(open_checkpoint(folder), "language")


def test_a_file_that_ends_early_is_an_error_that_names_it(
    tiny_model: Folder, tmp_path: Path
) -> None:
    folder = tmp_path / "short"
    shutil.copytree(tiny_model("llama"), folder)
    checkpoint = open_checkpoint(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        read(checkpoint, "language")


# --- encodings that are kept ----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["nf4@16+dq", "int3@16:zp", "ternary@16", "int8@row", "bf16"])
def test_what_was_encoded_once_comes_back_bit_for_bit(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, spec = torch.randn(12, 40), parse(text)
    encodings = Encodings(tmp_path, "abc")
    first = encodings("a.b", weight, spec)
    if text != "bf16":
        monkeypatch.setattr(
            "lowbit.runs.encoding_cache.encode", lambda *_: pytest.fail("encoded twice")
        )
    second = encodings("a.b", weight, spec)
    plain = codec.encode(weight, spec)
    for found in (first, second):
        assert found.tensors().keys() == plain.tensors().keys()
        assert all(torch.equal(t, plain.tensors()[n]) for n, t in found.tensors().items())


@pytest.mark.parametrize("other", ["name", "checkpoint", "format"])
def test_another_matrix_checkpoint_or_format_is_never_taken_for_it(
    other: str, tmp_path: Path
) -> None:
    weight, changed = torch.randn(4, 16), torch.randn(4, 16)
    Encodings(tmp_path, "abc")("a", weight, parse("int4@16"))
    found = Encodings(tmp_path, "xyz" if other == "checkpoint" else "abc")(
        "b" if other == "name" else "a",
        changed,
        parse("int4@8" if other == "format" else "int4@16"),
    )
    plain = codec.encode(changed, parse("int4@8" if other == "format" else "int4@16"))
    assert torch.equal(found.codes, plain.codes)


def test_a_damaged_encoding_is_made_again(tmp_path: Path) -> None:
    weight, spec = torch.randn(4, 16), parse("int4@16")
    encodings = Encodings(tmp_path, "abc")
    plain = encodings("a", weight, spec)
    (path,) = (tmp_path / "encoded").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    assert torch.equal(encodings("a", weight, spec).codes, plain.codes)


def test_heads_that_are_trained_are_read_for_their_shape_alone(tiny_model: Folder) -> None:
    start = opened(tiny_model("llama"), "classification")
    plan = Plan("p", "int4@16", rank=2)
    model, weights = blank(start.checkpoint, "classification", LABELS, PAD, CPU)
    install(
        model,
        start.sites,
        choose(plan, start.sites),
        LayerSettings(plan, torch.float32, 1),
        weights,
    )
    head = model.get_submodule("score")
    assert isinstance(head, TrainedLinear)
    assert float(head.weight.detach().std()) == pytest.approx(0.02, rel=0.5)


# --- the real thing -------------------------------------------------------------------------------


@pytest.mark.late
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_model_larger_than_the_memory_allowed_loads_at_four_bits() -> None:
    script = Path(__file__).parents[2] / "bench" / "system" / "limited_memory.py"
    done = subprocess.run([sys.executable, script, "200"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    first, theirs, ours = done.stdout.splitlines()
    assert int(first.split()[0]) > 200
    assert "out of memory" in theirs
    assert "loaded" in ours
