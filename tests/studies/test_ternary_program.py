"""The campaign's starting files: the library's layer, run sealed, scored from what it leaves."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lowbit.core.schedules import Warmup
from lowbit.layers.ternary.grid import Grid, join_blocks, ternarise
from lowbit.layers.ternary.linear import Recovery, TernaryLinear
from lowbit.models.checkpoint import open_checkpoint
from lowbit.quant.formats import FORMATS
from lowbit.quant.packing import pack
from lowbit.research.campaign.settings import GPUS
from lowbit.research.candidate.artefact import read
from lowbit.research.candidate.evaluator import prepare_scoring
from lowbit.research.candidate.process_watch import Limits
from lowbit.research.candidate.sandbox import run

PROGRAM = Path(__file__).parents[2] / "studies" / "ternary"
WIDTH = 24


def trial(folder: Path, model: Path, **changed: Any) -> Path:
    """A working copy with everything that a trial has."""
    folder.mkdir(parents=True)
    for name in ("train.py", "prepare.py"):
        shutil.copy(PROGRAM / name, folder / name)
    rows = np.random.default_rng(0).integers(0, 60, (40, WIDTH + 1)).astype(np.int32)
    np.save(folder / "data.npy", rows)
    np.save(folder / "check.npy", rows[:6])
    files = {"model": str(model), "data": "data.npy", "check": "check.npy"}
    body = {**files, "seed": 0, "seconds": 2.0, "tokens": 8 * WIDTH * 3, "threads": 1}
    (folder / "trial.json").write_text(json.dumps({**body, **changed}))
    return folder


def edited(folder: Path, **constants: object) -> None:
    """Some constants of train.py changed, as a proposer changes them."""
    text = (folder / "train.py").read_text()
    for name, value in constants.items():
        lines = [line for line in text.splitlines() if line.startswith(f"{name} = ")]
        assert len(lines) == 1, name
        text = text.replace(lines[0], f"{name} = {value!r}")
    (folder / "train.py").write_text(text)


@pytest.fixture
def program(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """train.py as a module, with some constants changed."""
    folder = trial(tmp_path / "copy", tiny_model("llama"))
    monkeypatch.chdir(folder)

    def load(**constants: object) -> ModuleType:
        edited(folder, **constants)
        for name in ("prepare", "train"):
            spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
        return module

    threads = torch.get_num_threads()
    yield load
    torch.set_num_threads(threads)


# --- equal to the library -------------------------------------------------------------------------


@pytest.mark.parametrize("group", [32, 64, 0])
@pytest.mark.parametrize("scale", ["absmean", "absmax", "lsq", "learned"])
def test_its_layer_is_the_librarys(program: Any, group: int, scale: str) -> None:
    train = program(GROUP=group, SCALE=scale, REACTIVATION=0.4, BIAS=True, DEAD_GRADIENT=0.5)
    plain = nn.Linear(100, 7, bias=False)
    grid = Grid(group or "row", scale)  # type: ignore[arg-type]
    ours = TernaryLinear(plain.weight, None, grid, Recovery(0.5, 0.4, True))
    theirs = train.BitLinear(plain)
    x, slope = torch.randn(5, 100), torch.randn(5, 7)
    for strength in (0.0, 0.4, 1.0):
        ours.strength = theirs.lam = strength
        ours.zero_grad()
        theirs.zero_grad()
        y, z = ours(x), theirs(x)
        assert torch.equal(y, z)
        y.backward(slope)
        z.backward(slope)
        assert torch.allclose(ours.weight.grad, theirs.weight.grad, atol=1e-6)  # type: ignore[arg-type]
        assert torch.allclose(ours.revival.grad, theirs.revival.grad, atol=1e-5)  # type: ignore
        if scale == "learned":
            assert torch.allclose(ours.scale.grad, theirs.scale.grad, atol=1e-6)  # type: ignore
    codes, scales, _ = theirs.stored()
    found, kept = ternarise(plain.weight.detach(), grid)
    assert torch.equal(codes, join_blocks(found, (7, 100), grid))
    assert torch.equal(scales, kept.squeeze(-1))


@pytest.mark.parametrize(
    "shape", ["linear", "cosine", "exponential", "sigmoid", "two-phase", "none"]
)
def test_its_schedule_is_the_librarys(program: Any, shape: str) -> None:
    train = program(WARMUP_SHAPE=shape, WARMUP_SHARE=0.6, WARMUP_KNEE=0.7)
    warm = Warmup(shape, 0.6, 0.7)  # type: ignore[arg-type]
    for progress in (0.0, 0.1, 0.29, 0.3, 0.31, 0.59, 0.6, 0.9, 1.0):
        assert train.strength(progress) == pytest.approx(warm.at(progress), abs=1e-12)


def test_its_packing_is_the_librarys(program: Any) -> None:
    program()
    codes: Tensor = torch.randint(-1, 2, (6, 33)).float()
    packed = pack((codes + 1).to(torch.uint8), FORMATS["ternary"].packing)
    assert torch.equal(sys.modules["prepare"].pack(codes), packed)  # type: ignore[attr-defined]


def test_it_is_short_and_stands_alone() -> None:
    text = (PROGRAM / "train.py").read_text()
    assert text.count("\n") <= 400
    imported = {line.split()[1].partition(".")[0] for line in text.splitlines()
                if line.startswith(("import ", "from "))}  # fmt: skip
    assert imported == {"__future__", "math", "torch", "prepare"}


# --- a whole trial --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "constants",
    [{}, {"LOGITS_WEIGHT": 1.0, "OFF_WEIGHT": 0.5, "FEATURES_WEIGHT": 0.5, "TEACHER_LAYERS": (1,)},
     {"GROUP": 0, "SCALE": "learned", "BIAS": True, "REACTIVATION": 0.1, "LR_SCHEDULE": "cosine"}],
    ids=["plain", "distilled", "other dials"],
)  # fmt: skip
def test_a_trial_leaves_a_ternary_model_and_a_claim_that_holds(
    tmp_path: Path, tiny_model: Callable[[str], Path], constants: dict[str, object]
) -> None:
    base = tiny_model("llama")
    folder = trial(tmp_path / "copy", base)
    edited(folder, **constants)
    command = [sys.executable, "-E", "-s", "train.py"]
    found = run(command, folder, Limits(seconds=90), readable=[base])
    assert (found.end, found.code) == ("done", 0), found.output
    claim = dict(line.split(":") for line in found.output.partition("---\n")[2].splitlines())
    assert list(claim) == ["val_ppl", "training_seconds", "total_seconds", "peak_memory_mb",
                           "total_tokens_M", "num_steps", "num_params_M"]  # fmt: skip
    assert int(claim["num_steps"]) == 3
    model = read(folder, open_checkpoint(base)).model
    rows = torch.from_numpy(np.load(folder / "check.npy").astype(np.int64))
    with torch.no_grad():
        logits = model(input_ids=rows[:, :-1]).logits
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    assert float(claim["val_ppl"]) == pytest.approx(math.exp(float(loss)), rel=0.01)


@pytest.mark.parametrize("scale", ["absmean", "lsq", "learned"])
def test_whatever_it_makes_lies_where_the_weights_lie(program: Any, scale: str) -> None:
    """What is made without saying where lands on a stand-in for a GPU, which holds nothing."""
    train = program(SCALE=scale, REACTIVATION=0.1, BIAS=True, DEAD_GRADIENT=0.5, GROUP=32)
    model, x = nn.Sequential(nn.Linear(100, 7, bias=False)), torch.randn(5, 100)
    with torch.device("meta"):
        layer = train.BitLinear(model[0])
        for strength in (0.5, 1.0):
            layer.lam = strength
            layer(x).square().sum().backward()
        made = [*layer.parameters(), *(t for t in layer.stored() if t is not None)]
    assert {t.device.type for t in made} == {"cpu"}
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_a_sealed_trial_computes_on_a_gpu(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    base = tiny_model("llama")
    folder = trial(tmp_path / "copy", base, device="cuda")
    edited(folder, LOGITS_WEIGHT=1.0, TEACHER_LAYERS=(1,), REACTIVATION=0.1)
    command = [sys.executable, "-E", "-s", "train.py"]
    found = run(command, folder, Limits(120), readable=[base], devices=GPUS["cuda"])
    assert (found.end, found.code) == ("done", 0), found.output
    claim = dict(line.split(":") for line in found.output.partition("---\n")[2].splitlines())
    (folder / "check.json").write_text(json.dumps(np.load(folder / "check.npy").tolist()))
    scored = prepare_scoring(str(base), {}, device="cuda")(folder, folder / "check.json")
    assert scored.check == pytest.approx(float(claim["val_ppl"]), rel=0.01)


@pytest.mark.late
def test_the_seed_decides_the_order_and_nothing_else_does(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    base, codes = tiny_model("llama"), []
    for i, seed in enumerate((3, 3, 4)):
        folder = trial(tmp_path / str(i), base, seed=seed)
        edited(folder, LR=0.01)
        found = run([sys.executable, "-E", "-s", "train.py"], folder, Limits(90), readable=[base])
        assert found.end == "done", found.output
        codes.append((folder / "model.safetensors").read_bytes())
    assert codes[0] == codes[1]
    assert codes[0] != codes[2]
