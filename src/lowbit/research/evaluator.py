"""Where the number comes from: a process of ours, on text that no candidate has seen.

    python -m lowbit.research.evaluator MODEL ARTEFACT TEXT        a line of JSON

It loads the packed artefact, refuses what is not what it should be, and computes the loss of every
article from logits of its own. Targets never leave this process.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from lowbit.evaluate import evaluate
from lowbit.files import to_json
from lowbit.install import Settings, install
from lowbit.models.family import find_sites
from lowbit.models.loading import max_length, open_checkpoint, resolve, tokenizer_of
from lowbit.plan.rules import choose
from lowbit.research.artefact import RefusedError, read
from lowbit.spec import Plan
from lowbit.tasks import tokens
from lowbit.tasks.base import Document

WINDOW, BATCH = 256, 16


@dataclass(frozen=True)
class Scored:
    """Summed loss and tokens of every article, and what the model takes."""

    sums: tuple[float, ...]
    counts: tuple[int, ...]
    bits: float
    stored: int
    zero: float

    @property
    def loss(self) -> float:
        return math.fsum(self.sums) / sum(self.counts)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


def score(model: str, artefact: Path, text: Path, threads: int = 0) -> Scored:
    """Every article of a JSON list of texts."""
    if threads:
        torch.set_num_threads(threads)
    checkpoint = open_checkpoint(resolve(model))
    tokenizer = tokenizer_of(checkpoint.folder)
    documents = [Document(one) for one in json.loads(text.read_text(encoding="utf-8"))]
    window = min(WINDOW, max_length(checkpoint.config))
    part = tokens.examples(tokens.language(documents, tokenizer, window), "language")
    made = read(artefact, checkpoint)

    # The lab's own loss needs its own layers; fp32 ones hold the very same numbers.
    sites = find_sites(made.model, checkpoint.matrices)
    plain = Plan("fp32", "fp32", embedding="fp32", rank=0, adapter="none")
    install(made.model, sites, choose(plain, sites), Settings(plain, torch.float32, 0, "decoded"))
    found, _ = evaluate(made.model, part, "language", BATCH, torch.device("cpu"))
    sums, counts = [0.0] * len(documents), [0] * len(documents)
    for example, (total, count) in zip(part, found, strict=True):
        sums[example.document] += total
        counts[example.document] += count
    if not all(map(math.isfinite, sums)):
        raise RefusedError("the model's loss is not finite")
    return Scored(tuple(sums), tuple(counts), made.bits, made.stored, made.zero)


def main() -> None:
    """One line: what was scored, or why nothing was."""
    model, artefact, text, *threads = sys.argv[1:]
    try:
        found = score(model, Path(artefact), Path(text), int(threads[0]) if threads else 0)
    except RefusedError as error:
        print(to_json({"refused": str(error)}))
        return
    body = {"sums": found.sums, "counts": found.counts, "bits": found.bits}
    print(to_json({**body, "stored": found.stored, "zero": found.zero}))


if __name__ == "__main__":
    main()
