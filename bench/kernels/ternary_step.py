"""Compare the time of a ternary training step with that of a full-precision one.

    python bench/kernels/ternary_step.py [MODEL] [ROUNDS]

Both train every block matrix of the same model with AdamW on 4 x 256 tokens: one as ordinary linear
layers, the other as ternary ones (absmean, groups of 128, lambda half way up and at 1), by the
library's layer and by the research program's own copy of it. Steps of all sides alternate within a
round, so that a slow minute of the machine meets all of them. The plain step computes in bf16 where
the machine has products for it, else in fp32, and so do the others. The public API only times whole
runs, so the layers are built here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.core.execution import Execution
from lowbit.core.spec import BLOCK_ROLES
from lowbit.layers.ternary.grid import Grid
from lowbit.layers.ternary.linear import TernaryLinear, set_strength
from lowbit.models.checkpoint import open_checkpoint
from lowbit.models.family import find_sites
from lowbit.models.find_model import resolve
from lowbit.models.loading import load
from lowbit.runs.device import TYPES, open_machine

PROGRAM = Path(__file__).parents[2] / "studies" / "ternary"
WARM = 2


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "assets:lm-14m"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    compute = open_machine(Execution(device="cpu"), "auto").compute
    sides = {
        "plain": _steps(model, TYPES[compute], lambda whole: None),
        "ternary, lambda 0.5": _steps(model, TYPES[compute], lambda whole: _ternary(whole, 0.5)),
        "ternary, lambda 1": _steps(model, TYPES[compute], lambda whole: _ternary(whole, 1.0)),
        "the program's, lambda 0.5": _steps(model, TYPES[compute], _programs),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(WARM + rounds):
        for name, step in sides.items():
            began = time.perf_counter()
            step()
            if number >= WARM:
                seconds[name].append(time.perf_counter() - began)
    least = median(seconds["plain"])
    print(
        f"{model}, 1,024 tokens, {compute}, {torch.get_num_threads()} threads, median of {rounds}"
    )
    for name, found in seconds.items():
        spread = f"{1e3 * min(found):.0f} to {1e3 * max(found):.0f}"
        ratio = median(found) / least
        print(f"{name:28}{1e3 * median(found):8.0f} ms  ({spread})  {ratio:5.3f}")


def _steps(
    name: str, compute: torch.dtype, change: Callable[[nn.Module], None]
) -> Callable[[], None]:
    """A model of one side, and one step of it."""
    checkpoint = open_checkpoint(resolve(name))
    model = load(checkpoint, "language").float()
    change(model)
    model.to(compute) if compute != torch.float32 else None
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (4, 257), generator=source)  # type: ignore

    def step() -> None:
        logits: Tensor = model(input_ids=ids[:, :-1]).logits.float()
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def _ternary(model: nn.Module, strength: float) -> None:
    for site in find_sites(model, frozenset(n for n, _ in model.named_modules())):
        if site.role in BLOCK_ROLES:
            parent, _, last = site.name.rpartition(".")
            plain = model.get_submodule(site.name)
            layer = TernaryLinear(plain.weight, plain.bias, Grid(128))  # type: ignore[arg-type]
            setattr(model.get_submodule(parent), last, layer)
    set_strength(model, strength)


def _programs(model: nn.Module) -> None:
    """The layer of studies/ternary/train.py, which stands alone."""
    train = _program()
    for layer in train.made_ternary(model):
        layer.lam = 0.5


def _program() -> ModuleType:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        trial = {"seed": 0, "seconds": 1.0, "tokens": 0, "threads": torch.get_num_threads()}
        (Path(folder) / "trial.json").write_text(json.dumps(trial))
        os.chdir(folder)
        try:
            for name in ("prepare", "train"):
                spec = importlib.util.spec_from_file_location(name, PROGRAM / f"{name}.py")
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                sys.modules[name] = module
                spec.loader.exec_module(module)
        finally:
            os.chdir(before)
    return module


if __name__ == "__main__":
    main()
