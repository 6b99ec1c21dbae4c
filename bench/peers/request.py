"""The request to one side of the comparison, and the examples that all sides share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDES = {
    "ours": "lowbit, packed",
    "ours-decoded": "lowbit, residency = decoded",
    "ours-int8": "lowbit, decoded, compute = int8",
    "ours-checkpointing": "lowbit, packed, checkpointing",
    "ours-least": "lowbit, packed, checkpointing, sparing",
    "a": "(a) Trainer + PEFT + bitsandbytes, as documented",
    "b": "(b) the same, tuned",
    "c": "(c) Trainer + PEFT + torchao int8 weight-only",
}
EXTRAS = {"a": "bitsandbytes", "b": "bitsandbytes", "c": "torchao"}
WINDOW, RANK, WARM, LOOKED_AT = 256, 8, 3, 32
WORKS = {"lm": 4, "sst2": 8}
"""Examples a step."""


@dataclass(frozen=True)
class Job:
    """One side's workload and settings."""

    side: str
    work: str
    model: str
    steps: int
    sentences: int
    seed: int
    dq: bool = False
    profile: bool = False


def data_of(job: Job, tokenizer: Any, vocabulary: int) -> tuple[Any, Any]:
    """(training examples, scored examples), the same for every side."""
    import numpy as np

    from lowbit.core.cache import cache_dir
    from lowbit.core.spec import TaskSpec
    from lowbit.tasks.base import Example
    from lowbit.tasks.prepare import prepare

    if job.work == "sst2":
        data = prepare(TaskSpec("sst2", limit=job.sentences), tokenizer, 512, cache_dir())
        return data.parts["train"], data.parts["scored"]
    if tokenizer is not None:
        task = TaskSpec("wikitext2", window=WINDOW)
        parts = prepare(task, tokenizer, 2 * WINDOW, cache_dir()).parts
        whole = {n: [e for e in part if len(e.ids) == WINDOW] for n, part in parts.items()}
        return whole["train"], whole["scored"][:LOOKED_AT]
    source = np.random.default_rng(job.seed)
    rows = source.integers(0, vocabulary, (job.steps * WORKS["lm"] + LOOKED_AT, WINDOW + 1))
    examples = [Example(row[:-1], row[1:], i, 1) for i, row in enumerate(rows)]
    return examples[LOOKED_AT:], examples[:LOOKED_AT]


def folder_of(reference: str) -> tuple[Path, bool]:
    """(folder, whether it holds a tokenizer); `random:LAYERSxWIDTH` is made on first use."""
    from lowbit.models.find_model import resolve

    if not reference.startswith("random:"):
        return resolve(reference), True
    return random_model(reference), False


def random_model(reference: str) -> Path:
    """A Llama of random weights with the vocabulary of SmolLM, kept in the cache."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lowbit.core.cache import cache_dir

    layers, width = (int(word) for word in reference.removeprefix("random:").split("x"))
    folder = cache_dir() / "models" / f"random-{layers}x{width}"
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49_152, hidden_size=width, intermediate_size=width * 8 // 3,
            num_hidden_layers=layers, num_attention_heads=width // 64,
            num_key_value_heads=width // 64, max_position_embeddings=512,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def summary(marks: list[tuple[float, int]], peak: int, quality: float) -> dict[str, float]:
    """Speed, peak memory and quality; `marks`: (seconds, tokens) after each step, warm-up first."""
    seconds = marks[-1][0] - marks[WARM - 1][0]
    tokens = marks[-1][1] - marks[WARM - 1][1]
    steps = [b[0] - a[0] for a, b in zip(marks[WARM - 1 :], marks[WARM:], strict=False)]
    return {
        "tokens_per_s": tokens / seconds,
        "step_s": sorted(steps)[len(steps) // 2],
        "mean_step_s": seconds / len(steps),
        "seconds": marks[-1][0] - marks[0][0],
        "peak": peak,
        "quality": quality,
    }
