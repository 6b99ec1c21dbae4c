"""One LoRA step on a 4-bit base, beside PEFT + bitsandbytes doing the same work in the same run.

    make bench            or   python bench/lora_step.py [MODEL] [--rounds 3] [--steps 10]

Same model, same tokens (4 x 256), rank 8 on every block matrix, nf4 in groups of 64, embedding and
head untouched in 16 bit, AdamW, no gradient checkpointing. Sides alternate, each in a process of
its own; a side's figure is the median over its rounds of the median step. Peak memory is above
the same process after its imports, before anything is loaded. `peer, as documented` adds what
`prepare_model_for_kbit_training` does by default (gradient checkpointing, fp32 casts).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

SIDES = {
    "ours": "lowbit, packed",
    "ours-decoded": "lowbit, residency = decoded",
    "peer": "PEFT + bitsandbytes",
    "peer-default": "PEFT + bitsandbytes, as documented",
}
BATCH, LENGTH, RANK, WARM = 4, 256, 8, 3


def main() -> None:
    options = _options()
    if options.profile:
        profile(options.model)
        return
    if options.side:
        print(json.dumps(measure(options.side, options.model, options.steps)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(options.rounds):
        for side in SIDES:
            print(f"round {turn + 1}/{options.rounds}: {SIDES[side]}", file=sys.stderr)
            result = _process(side, options)
            if result is not None:
                found[side].append(result)
    show(found, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="assets:lm-14m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--profile", action="store_true", help="show where our step's time goes")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _process(side: str, options: argparse.Namespace) -> dict[str, float] | None:
    words = [sys.executable, __file__, options.model, "--side", side, "--steps", str(options.steps)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given"
    print(f"  {SIDES[side]} did not run: {said}", file=sys.stderr)
    return None


def show(found: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """The table, every figure a median over the rounds."""
    import torch

    print(f"\n{options.model}, {BATCH} x {LENGTH} tokens a step, rank {RANK}, nf4 in groups of 64")
    print(f"{_cpu()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"\n{'':36} {'tokens/s':>9} {'spread':>13} {'peak MB':>8} {'loss after':>11}")
    for side, rounds in found.items():
        if not rounds:
            print(f"{SIDES[side]:36} {'not installed or failed':>9}")
            continue
        speeds = sorted(r["tokens_per_s"] for r in rounds)
        print(
            f"{SIDES[side]:36} {median(speeds):9,.0f} {speeds[0]:6,.0f}-{speeds[-1]:6,.0f} "
            f"{median(r['peak'] for r in rounds) / 1e6:8,.0f} {rounds[0]['loss']:11.4f}"
        )


def _cpu() -> str:
    from lowbit.device import cpu_name

    return f"{cpu_name()} ({os.cpu_count()} cores, {platform.system()})"


# -- one side, in its own process ------------------------------------------------------------------


def measure(side: str, reference: str, steps: int) -> dict[str, float]:
    import torch

    from lowbit.device import PeakMemory, resolve_compute
    from lowbit.models.loading import resolve

    folder = resolve(reference)
    build: Callable[[Path, Any], Any] = _ours if side.startswith("ours") else _peer
    if build is _peer:
        import bitsandbytes  # noqa: F401
        import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    cpu = torch.device("cpu")
    compute = resolve_compute("auto", cpu)
    memory = PeakMemory(cpu)
    memory.start()
    model, loss_of = build(folder, (side, compute))
    torch.manual_seed(0)
    vocabulary = model.config.vocab_size
    batches = [torch.randint(0, vocabulary, (BATCH, LENGTH + 1)) for _ in range(WARM + steps)]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    model.train()
    seconds, loss = [], torch.zeros(())
    for batch in batches:
        began = time.perf_counter()
        loss = loss_of(batch)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
    return {
        "tokens_per_s": BATCH * LENGTH / median(seconds[WARM:]),
        "peak": memory.peak() - memory.idle,
        "loss": float(loss.detach()),
    }


def profile(reference: str) -> None:
    """torch's own table of our step, by time in each operation."""
    import torch

    from lowbit.device import resolve_compute
    from lowbit.models.loading import resolve

    compute = resolve_compute("auto", torch.device("cpu"))
    model, loss_of = _ours(resolve(reference), ("ours", compute))
    batch = torch.randint(0, model.config.vocab_size, (BATCH, LENGTH + 1))
    model.train()
    loss_of(batch).backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(3):
            loss_of(batch).backward()
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def _ours(folder: Path, how: tuple[str, str]) -> Any:
    from lowbit.device import TYPES
    from lowbit.install import Settings, install
    from lowbit.losses import training_loss
    from lowbit.models.family import find_sites
    from lowbit.models.loading import load, open_checkpoint
    from lowbit.plan.rules import choose
    from lowbit.spec import Plan
    from lowbit.tasks.base import Batch

    side, compute = how
    model = load(open_checkpoint(folder), "language")
    sites = find_sites(model)
    plan = Plan("bench", "nf4@64", embedding="bf16", rank=RANK)
    residency = "decoded" if side == "ours-decoded" else "packed"
    install(model, sites, choose(plan, sites), Settings(plan, TYPES[compute], 0, residency))

    def loss_of(batch: Any) -> Any:
        ids, target = batch[:, :-1].flatten(), batch[:, 1:].flatten()
        lengths = (batch.shape[1] - 1,) * len(batch)
        summed, count = training_loss(model, "language", Batch(ids, target, lengths, lengths, ()))
        return summed / count

    return model, loss_of


def _peer(folder: Path, how: tuple[str, str]) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    side, compute = how
    documented = side == "peer-default"
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32 if documented else types[compute],
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantised, dtype=None if documented else types[compute]
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if documented:
        model = prepare_model_for_kbit_training(model)
    # A plain list: every block matrix, as on our side.
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapter = LoraConfig(r=RANK, lora_alpha=16, target_modules=names, task_type="CAUSAL_LM")
    model = get_peft_model(model, adapter)

    def loss_of(batch: Any) -> Any:
        logits = model(input_ids=batch[:, :-1]).logits.float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    return model, loss_of


if __name__ == "__main__":
    main()
