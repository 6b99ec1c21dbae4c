"""Where the number comes from: a process of ours, on text that no candidate has seen.

    python -m lowbit.research.candidate.evaluator REQUEST

REQUEST is JSON: {"model": ..., "artefact": ..., "texts": {NAME: FILE}}.

It makes ready (libraries, tokeniser, texts) while the candidate does likewise, and waits for a line
on its input that says that the candidate has ended; nothing there means that nobody needs it.
Then it loads the packed artefact, refuses what is not what it should be, and computes the loss of
every article from logits of its own; of the check rows too, which the candidate's claim is about.
Targets never leave this process. What it says is one line of JSON.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lowbit.core.files import to_json
from lowbit.core.spec import Plan
from lowbit.layers.install import LayerSettings, install
from lowbit.models.family import find_sites
from lowbit.models.loading import Checkpoint, max_length, open_checkpoint, resolve, tokenizer_of
from lowbit.plan.rules import choose
from lowbit.research.candidate.artefact import ArtefactModel, RefusedError, read
from lowbit.tasks import examples
from lowbit.tasks.base import Document, Example
from lowbit.train.evaluate import evaluate

WINDOW, BATCH = 256, 16


@dataclass(frozen=True)
class ArtefactScores:
    """(sums, counts) by article of every text, the check's perplexity, and what the model takes."""

    texts: Mapping[str, tuple[tuple[float, ...], tuple[int, ...]]]
    check: float | None
    bits: float
    stored: int
    zero: float

    def loss(self, name: str) -> float:
        sums, counts = self.texts[name]
        return math.fsum(sums) / sum(counts)


def score(
    model: str,
    artefact: Path,
    texts: Mapping[str, Path],
    check: Path | None = None,
    threads: int = 0,
) -> ArtefactScores:
    """Every article of JSON lists of texts."""
    return prepare_scoring(model, texts, threads)(artefact, check)


def prepare_scoring(
    model: str, texts: Mapping[str, Path], threads: int = 0, device: str = "cpu"
) -> Callable[[Path, Path | None], ArtefactScores]:
    """Everything that does not need the artefact, done; what is given scores one."""
    if threads:
        torch.set_num_threads(threads)
    checkpoint = open_checkpoint(resolve(model))
    there = torch.device(device)
    cut = {name: _articles(checkpoint, path) for name, path in texts.items()}

    def scored(artefact: Path, check: Path | None = None) -> ArtefactScores:
        ternary = read(artefact, checkpoint)
        ternary.model.to(there)
        checked = None if check is None else _of_rows(ternary.model, check, there)
        _with_our_layers(ternary, checkpoint)
        scores = {
            name: _of_articles(ternary.model, there, *articles) for name, articles in cut.items()
        }
        return ArtefactScores(scores, checked, ternary.bits, ternary.stored, ternary.zero)

    return scored


@torch.no_grad()
def _of_rows(model: nn.Module, path: Path, device: torch.device) -> float:
    """Perplexity of rows of tokens, as `prepare.val_ppl` defines it."""
    rows = torch.tensor(json.loads(path.read_text(encoding="utf-8")), device=device)
    total = 0.0
    for batch in rows.split(BATCH):
        logits = model(input_ids=batch[:, :-1]).logits.float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
        total += float(losses)
    return _perplexity(total / (len(rows) * (rows.shape[1] - 1)))


def _perplexity(loss: float) -> float:
    return math.exp(min(50.0, loss)) if math.isfinite(loss) else math.inf


def _with_our_layers(artefact: ArtefactModel, checkpoint: Checkpoint) -> None:
    """The lab's own loss needs its own layers; fp32 ones hold the very same numbers."""
    sites = find_sites(artefact.model, checkpoint.matrices)
    plain = Plan("fp32", "fp32", embedding="fp32", rank=0, adapter="none")
    install(
        artefact.model,
        sites,
        choose(plain, sites),
        LayerSettings(plain, torch.float32, 0, "decoded"),
    )


def _articles(checkpoint: Checkpoint, path: Path) -> tuple[int, tuple[Example, ...]]:
    """How many articles, and their stretches of tokens."""
    tokenizer = tokenizer_of(checkpoint.folder)
    documents = [Document(text) for text in json.loads(path.read_text(encoding="utf-8"))]
    window = min(WINDOW, max_length(checkpoint.config))
    part = examples.examples(examples.language(documents, tokenizer, window), "language")
    return len(documents), part


def _of_articles(
    model: nn.Module, device: torch.device, articles: int, part: Sequence[Example]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    scores, _ = evaluate(model, part, "language", BATCH, device)
    sums, counts = [0.0] * articles, [0] * articles
    for example, (total, count) in zip(part, scores, strict=True):
        sums[example.document] += total
        counts[example.document] += count
    if not all(map(math.isfinite, sums)):
        raise RefusedError("the model's loss is not finite")
    return tuple(sums), tuple(counts)


def main() -> None:
    """One line: what was scored, or why nothing was."""
    request = json.loads(sys.argv[1])
    texts = {name: Path(path) for name, path in request["texts"].items()}
    check = Path(request["check"]) if request.get("check") else None
    scored = prepare_scoring(
        request["model"], texts, request.get("threads", 0), request.get("device", "cpu")
    )
    if not sys.stdin.readline():
        return
    try:
        scores = scored(Path(request["artefact"]), check)
    except RefusedError as error:
        _answer({"refused": str(error)})
        return
    checked = scores.check if scores.check is None or math.isfinite(scores.check) else None
    _answer({**vars(scores), "check": checked})


def _answer(body: dict[str, Any]) -> None:
    """One line to the process that asked."""
    sys.stdout.write(to_json(body) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
