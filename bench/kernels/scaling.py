"""How a step's time grows with tokens, layers and width.

    python bench/kernels/scaling.py

Random Llama models with a small vocabulary. Each of the three sizes is doubled twice while the
others stay. The exponent is the slope of log time over log size: 1 means linear in tokens or
layers; for width it tends to 2, as the products do. Steps are timed inside the training loop; the
public API only times whole runs.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

BASE = {"tokens": 256, "layers": 2, "width": 256}
TIMES = (1, 2, 4)
STEPS, WARM = 8, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(seconds(**options.one)))
        return
    print(f"from {BASE}, ms a step, nf4@64, rank 8")
    for name in BASE:
        sizes = [{**BASE, name: times * BASE[name]} for times in TIMES]
        step_seconds = [process(size) for size in sizes]
        row = "  ".join(f"x{t} {1e3 * s:7.1f}" for t, s in zip(TIMES, step_seconds, strict=True))
        print(f"{name:8} {row}   exponent {exponent(step_seconds):.2f}")


def process(size: dict[str, int]) -> float:
    words = [sys.executable, __file__, "--one", json.dumps(size)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def exponent(step_seconds: list[float]) -> float:
    """Least squares through (log times, log seconds)."""
    x, y = [math.log(t) for t in TIMES], [math.log(s) for s in step_seconds]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return above / sum((a - mx) ** 2 for a in x)


def seconds(tokens: int, layers: int, width: int) -> float:
    """The median step, through the product's loading and loop."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lowbit.core.execution import Execution
    from lowbit.core.spec import Plan, TrainSpec
    from lowbit.layers.install import LayerSettings, install
    from lowbit.models.checkpoint import open_checkpoint
    from lowbit.models.family import find_sites
    from lowbit.models.skeleton import skeleton
    from lowbit.models.weights import blank
    from lowbit.plan.rules import choose
    from lowbit.runs.device import open_machine
    from lowbit.tasks.base import Example
    from lowbit.train.loop import LoopSettings, train_model

    device = open_machine(Execution(device="cpu"), "fp32").device
    with tempfile.TemporaryDirectory() as folder:
        config = LlamaConfig(
            vocab_size=512, hidden_size=width, intermediate_size=4 * width,
            num_hidden_layers=layers, num_attention_heads=width // 64,
            num_key_value_heads=width // 64, tie_word_embeddings=True,
        )  # fmt: skip
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        checkpoint = open_checkpoint(Path(folder))
        plan = Plan("scaling", "nf4@64", embedding="bf16", rank=8)
        sites = find_sites(skeleton(checkpoint, "language"), checkpoint.matrices)
        model, weights = blank(checkpoint, "language", 0, None, device)
        install(model, sites, choose(plan, sites), LayerSettings(plan, torch.float32, 0), weights)
    rows = np.random.default_rng(0).integers(0, 512, (STEPS * tokens // 128, 129))
    part = [Example(row[:-1], row[1:], i, 1) for i, row in enumerate(rows)]
    marks: list[float] = []
    train = TrainSpec(batch=tokens // 128, epochs=STEPS, steps=STEPS, keep="last")
    setting = LoopSettings(
        "language", train, 0, device, on_step=lambda *_: marks.append(time.perf_counter())
    )
    train_model(model, {"train": part, "selection": part[:1]}, setting)
    return median(b - a for a, b in zip(marks[WARM - 1 :], marks[WARM:], strict=False))


if __name__ == "__main__":
    main()
