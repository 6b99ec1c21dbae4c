"""READ-ONLY. Data, model, budget and export: everything of a trial that a candidate may not change.

A trial is described by `trial.json` in the working folder, which the harness writes:

    model, data   a model folder and a token file (numpy, one row a sequence)
    check         another token file: what the claim is about
    seed          of everything that is random; the harness owns it
    seconds       of training, start-up and export outside it; or
    tokens        to train on instead (0: the clock decides)
    threads       of the CPU
    device        cpu, cuda or mps: where models and batches are

What is printed at the end is a claim about the check text, which the harness computes too: a claim
that disagrees stops the loop. The number that counts is computed elsewhere, from the packed file
that `export` leaves, by a process that has text of its own.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

if not Path("trial.json").is_file():
    sys.exit(
        "no trial.json here: lowbit research init writes one into the campaign's own worktree, "
        "and says where that is"
    )
TRIAL = json.loads(Path("trial.json").read_text(encoding="utf-8"))
SEED: int = TRIAL["seed"]
BEGAN = time.perf_counter()
DEVICE = torch.device(TRIAL.get("device", "cpu"))
torch.set_num_threads(TRIAL["threads"])
torch.manual_seed(SEED)


class Budget:
    """How much of the training is over. Begins when it is made."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.tokens = self.steps = 0
        self.trained = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    @property
    def progress(self) -> float:
        """From 0 to 1, by tokens where they are counted, else by the clock."""
        if TRIAL["tokens"]:
            return min(1.0, self.tokens / TRIAL["tokens"])
        return min(1.0, self.seconds / TRIAL["seconds"])

    @property
    def over(self) -> bool:
        return self.progress >= 1.0

    def step(self, tokens: int) -> None:
        self.steps += 1
        self.tokens += tokens
        self.trained = self.seconds


def model() -> nn.Module:
    """The base model in full precision on the device, fresh each time it is asked for."""
    from transformers import AutoModelForCausalLM

    found = AutoModelForCausalLM.from_pretrained(TRIAL["model"], dtype=torch.float32)
    found.config.use_cache = False
    return found.to(DEVICE)


def blocks(found: nn.Module) -> dict[str, nn.Linear]:
    """The matrices that must become ternary, by name: all linear layers but the head."""
    head = found.get_output_embeddings()
    return {n: m for n, m in found.named_modules() if isinstance(m, nn.Linear) and m is not head}


def batches(size: int) -> Iterator[Tensor]:
    """(size, window + 1) tokens, for ever; the order is the seed's, whatever the candidate."""
    rows = np.load(TRIAL["data"], allow_pickle=False)
    source = np.random.default_rng(SEED)
    while True:
        order = source.permutation(len(rows))
        for start in range(0, len(order) - size + 1, size):
            chosen = rows[np.sort(order[start : start + size])]
            yield torch.from_numpy(chosen.astype(np.int64)).to(DEVICE)


@torch.no_grad()
def val_ppl(found: nn.Module) -> float:
    """Perplexity of the check text, as the model stands."""
    rows = torch.from_numpy(np.load(TRIAL["check"], allow_pickle=False).astype(np.int64))
    rows = rows.to(DEVICE)
    found.eval()
    total, count = 0.0, 0
    for batch in rows.split(8):
        logits = found(batch[:, :-1]).logits.float()
        target = batch[:, 1:]
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), target.flatten(), reduction="sum"
        )
        total, count = total + float(losses), count + target.numel()
    return math.exp(min(50.0, total / count))


def pack(codes: Tensor) -> Tensor:
    """-1, 0, +1 as five codes a byte, the first in the lowest digit; rows are padded at the end."""
    rows, columns = codes.shape
    digits = torch.zeros(rows, -(-columns // 5) * 5, dtype=torch.uint8)
    digits[:, :columns] = (codes + 1).to(torch.uint8)
    powers = torch.tensor([1, 3, 9, 27, 81], dtype=torch.int32)
    return (digits.view(rows, -1, 5).int() * powers).sum(-1).to(torch.uint8)


def export(
    found: nn.Module, stored: Callable[[nn.Module], tuple[Tensor, Tensor, Tensor | None]]
) -> None:
    """Write model.safetensors. `stored` gives, for every layer that stands where a matrix was, its
    codes (rows, columns) in {-1, 0, 1}, scales (rows, groups), and bias or None."""
    tensors: dict[str, Tensor] = {}
    taken: set[str] = set()
    for name in TERNARY:
        codes, scales, bias = stored(found.get_submodule(name))
        tensors[f"{name}.codes"] = pack(codes.detach().cpu())
        tensors[f"{name}.scales"] = scales.detach().cpu().to(torch.float16).view(torch.int16)
        if bias is not None:
            tensors[f"{name}.bias"] = bias.detach().cpu().to(torch.float16)
        taken.add(name)
    for name, parameter in found.named_parameters():
        if not any(name.startswith(f"{site}.") for site in taken):
            tensors[name] = parameter.detach().cpu().to(torch.float16)
    save_file({n: t.contiguous() for n, t in tensors.items()}, "model.safetensors")


TERNARY: list[str] = []
"""Names of the matrices, set by `remember` before they are replaced."""


def remember(names: list[str]) -> None:
    TERNARY[:] = names


def report(budget: Budget, val_ppl: float, parameters: int) -> None:
    """The lines that the convention asks for: what the candidate claims."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mebibytes = peak / 2**20 if sys.platform == "darwin" else peak / 2**10
    if DEVICE.type == "cuda":
        mebibytes = torch.cuda.max_memory_allocated() / 2**20
    rows = {
        "val_ppl": f"{val_ppl:.6f}",
        "training_seconds": f"{budget.trained:.1f}",
        "total_seconds": f"{time.perf_counter() - BEGAN:.1f}",
        "peak_memory_mb": f"{mebibytes:.1f}",
        "total_tokens_M": f"{budget.tokens / 1e6:.6f}",
        "num_steps": f"{budget.steps}",
        "num_params_M": f"{parameters / 1e6:.6f}",
    }
    print("---")
    for key, value in rows.items():
        print(f"{key + ':':<18}{value}")
