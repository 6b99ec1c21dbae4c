"""Time and peak memory of measuring a model, next to their estimates from shapes.

    python bench/system/measuring.py MODEL [predict] [plan] [measure] [guide]
    python bench/system/measuring.py shapes
    python bench/system/measuring.py random-360m TOKENIZER_FOLDER TO

Each command runs in a process of its own with an empty cache, on WikiText-2 (`LOWBIT_ASSETS`),
4,096 tokens, 2 threads. Memory is above an interpreter that has opened the model's header. `shapes`
estimates models of 135 M to 8 B parameters without weights. `random-360m` makes a model of that
size with random weights, for the scaling exponents.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

TOKENS, WINDOW = 4096, 256
SETTINGS = {"execution.threads": 2}
VERBS = ("predict", "plan", "measure", "guide")
# Hidden size, feed-forward size, blocks, heads, key heads, vocabulary, tied.
SHAPES = {
    "SmolLM2-135M": (576, 1536, 30, 9, 3, 49152, True),
    "SmolLM2-360M": (960, 2560, 32, 15, 5, 49152, True),
    "Llama-3.2-1B": (2048, 8192, 16, 32, 8, 128256, True),
    "Llama-3.1-8B": (4096, 14336, 32, 32, 8, 128256, False),
}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measured(model: str, verb: str) -> None:
    """One command: seconds, and megabytes above an interpreter with its libraries."""
    import lowbit
    from lowbit.models.checkpoint import open_checkpoint
    from lowbit.runs.demo_model import model_folder
    from lowbit.sensitivity.by_name import guide
    from lowbit.sensitivity.estimate import measured_rate

    checkpoint = open_checkpoint(model_folder(model))
    del checkpoint
    rate, idle, last = measured_rate(), peak(), {"": (0.0, 0.0)}

    def on_progress(phase: str, done: int, total: int) -> None:
        now = time.perf_counter()
        last[phase] = (last.get(phase, (now, now))[0], now)

    common = {"tokens": TOKENS, "settings": SETTINGS, "on_progress": on_progress}
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: lowbit.predict(model, "wikitext2", ["nf4@64"], **common),
        "plan": lambda: lowbit.plan_for_budget(model, "wikitext2", budget(model, 4.5), **common),
        "measure": lambda: lowbit.measure(model, "wikitext2", **common),
        "guide": lambda: guide(model, "wikitext2", **common),
    }
    began = time.perf_counter()
    calls[verb]()
    seconds, memory, weights = time.perf_counter() - began, peak() - idle, weights_mb(model)
    print(
        f"{verb:<9} {seconds:7.0f} s  {memory:7.0f} MB, {memory / weights:.2f} times the 16-bit "
        f"weights ({weights:.0f} MB); {rate / 1e9:.0f} GFLOP/s"
    )
    if verb == "plan":
        again = time.perf_counter()
        lowbit.plan_for_budget(model, "wikitext2", budget(model, 4.0), **common)
        print(f"  a second budget   {time.perf_counter() - again:.0f} s")
    phases = ", ".join(f"{p} {b - a:.0f}" for p, (a, b) in last.items() if b > a)
    print(f"  phases in s: {phases}", flush=True)


def weights_mb(model: str) -> float:
    """16-bit weights."""
    from lowbit.models.checkpoint import open_checkpoint
    from lowbit.models.family import find_sites
    from lowbit.models.skeleton import skeleton
    from lowbit.runs.demo_model import model_folder

    sites = find_sites(skeleton(open_checkpoint(model_folder(model)), "language", 0))
    return sum(s.shape[0] * s.shape[1] for s in sites) * 2 / 1e6


def budget(model: str, bits: float) -> int:
    return round(weights_mb(model) * 1e6 * bits / 16)


def shapes() -> None:
    """Estimates without weights."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from lowbit.models.family import find_sites
    from lowbit.planner.plan_for_budget import PLANNED
    from lowbit.sensitivity.by_name import RANKS
    from lowbit.sensitivity.estimate import estimate_measuring, measured_rate
    from lowbit.sensitivity.table import MeasureRequest

    rate = measured_rate()
    print(f"at {rate / 1e9:.0f} GFLOP/s in fp32, {TOKENS:,} tokens, sequences of {WINDOW}")
    for name, (width, wide, blocks, heads, keys, vocabulary, tied) in SHAPES.items():
        config = LlamaConfig(
            hidden_size=width, intermediate_size=wide, num_hidden_layers=blocks,
            num_attention_heads=heads, num_key_value_heads=keys, vocab_size=vocabulary,
            tie_word_embeddings=tied,
        )  # fmt: skip
        with torch.device("meta"):
            sites = find_sites(AutoModelForCausalLM.from_config(config))
        block = tuple((s.name, "nf4@64") for s in sites if s.depth is not None)
        one = MeasureRequest(
            ("nf4@64",), samples=0, joint=(("", block),), uniform=False, exact=False
        )
        full = MeasureRequest(PLANNED, RANKS, 0, uniform=False, exact=False, costed=True)
        weights = sum(s.shape[0] * s.shape[1] for s in sites) * 2
        for verb, request in (("predict", one), ("plan", full)):
            cost = estimate_measuring(sites, request, TOKENS, WINDOW, rate)
            print(
                f"{name:<13} {verb:<8} {cost.total / 60:7.1f} min  {cost.memory / 1e9:6.2f} GB, "
                f"{cost.memory / weights:.1f} times the 16-bit weights"
            )


def random_360m(tokenizer: Path, to: Path) -> None:
    """A model of SmolLM2-360M's shape with random weights and another model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    width, wide, blocks, heads, keys, vocabulary, tied = SHAPES["SmolLM2-360M"]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=wide, num_hidden_layers=blocks,
        num_attention_heads=heads, num_key_value_heads=keys, vocab_size=vocabulary,
        tie_word_embeddings=tied, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(to)
    for path in tokenizer.glob("*token*"):
        shutil.copy(path, to)


def main() -> None:
    first, *rest = sys.argv[1:] or ["shapes"]
    if first == "shapes":
        shapes()
    elif first == "random-360m":
        random_360m(Path(rest[0]), Path(rest[1]))
    else:
        for verb in rest or VERBS:
            with tempfile.TemporaryDirectory() as cache:
                os.environ["LOWBIT_CACHE"] = cache
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    pool.submit(measured, first, verb).result()


if __name__ == "__main__":
    main()
