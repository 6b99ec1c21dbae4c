"""Scores an artefact in a separate process, on text that no candidate can read.

    python -m lowbit.research.candidate.evaluator REQUEST

REQUEST is JSON: {"model": ..., "artefact": ..., "texts": {NAME: FILE}}.

The process starts together with the candidate and loads libraries, tokeniser and texts meanwhile.
Then it waits for a line on its standard input, which says that the candidate has ended; if the
input closes without one, it exits. It loads the packed artefact, refuses an invalid one, and
computes the loss of every article from its own logits. It also computes the perplexity of the
check rows, which the candidate reports too. The answer is one line of JSON; texts and targets
never leave this process.
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
from lowbit.models.checkpoint import Checkpoint, open_checkpoint, tokenizer_of
from lowbit.models.family import find_sites
from lowbit.models.find_model import resolve
from lowbit.models.skeleton import max_length
from lowbit.plan.rules import choose
from lowbit.research.candidate.artefact import ArtefactModel, RefusedError, read
from lowbit.tasks import examples
from lowbit.tasks.base import Document, Example
from lowbit.train.evaluate import evaluate

WINDOW, BATCH = 256, 16


@dataclass(frozen=True)
class ArtefactScores:
    """Scores of an artefact, and its size."""

    texts: Mapping[str, tuple[tuple[float, ...], tuple[int, ...]]]
    """Name of a text -> (summed losses, numbers of tokens), each by article."""
    check: float | None
    """Perplexity of the check rows."""
    bits: float
    stored: int
    zero: float

    def loss(self, name: str) -> float:
        """Mean loss of a text in nats a token."""
        sums, counts = self.texts[name]
        return math.fsum(sums) / sum(counts)


def score(
    model: str,
    artefact: Path,
    texts: Mapping[str, Path],
    check: Path | None = None,
    threads: int = 0,
) -> ArtefactScores:
    """Score an artefact on texts, each a JSON file with a list of articles."""
    return prepare_scoring(model, texts, threads)(artefact, check)


def prepare_scoring(
    model: str, texts: Mapping[str, Path], threads: int = 0, device: str = "cpu"
) -> Callable[[Path, Path | None], ArtefactScores]:
    """Do all work that does not need the artefact; returns a function that scores one."""
    if threads:
        torch.set_num_threads(threads)
    checkpoint = open_checkpoint(resolve(model))
    target = torch.device(device)
    articles = {name: _load_articles(checkpoint, path) for name, path in texts.items()}

    def score_artefact(artefact: Path, check: Path | None = None) -> ArtefactScores:
        ternary = read(artefact, checkpoint)
        ternary.model.to(target)
        perplexity = None if check is None else _check_perplexity(ternary.model, check, target)
        _install_plain_layers(ternary, checkpoint)
        scores = {
            name: _score_articles(ternary.model, target, *part) for name, part in articles.items()
        }
        return ArtefactScores(scores, perplexity, ternary.bits, ternary.stored, ternary.zero)

    return score_artefact


@torch.no_grad()
def _check_perplexity(model: nn.Module, path: Path, device: torch.device) -> float:
    """Perplexity of rows of tokens, computed as `prepare.val_ppl` does."""
    rows = torch.tensor(json.loads(path.read_text(encoding="utf-8")), device=device)
    total = 0.0
    for batch in rows.split(BATCH):
        logits = model(input_ids=batch[:, :-1]).logits.float()
        losses = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
        total += float(losses)
    return _perplexity(total / (len(rows) * (rows.shape[1] - 1)))


def _perplexity(loss: float) -> float:
    return math.exp(min(50.0, loss)) if math.isfinite(loss) else math.inf


def _install_plain_layers(artefact: ArtefactModel, checkpoint: Checkpoint) -> None:
    """Replace the linear layers with lowbit's fp32 layers, which `train.evaluate` needs.

    They hold the same numbers, so the loss does not change.
    """
    sites = find_sites(artefact.model, checkpoint.matrices)
    plain = Plan("fp32", "fp32", embedding="fp32", rank=0, adapter="none")
    install(
        artefact.model,
        sites,
        choose(plain, sites),
        LayerSettings(plain, torch.float32, 0, "decoded"),
    )


def _load_articles(checkpoint: Checkpoint, path: Path) -> tuple[int, tuple[Example, ...]]:
    """(number of articles, their windows of tokens) of a JSON file."""
    tokenizer = tokenizer_of(checkpoint.folder)
    documents = [Document(text) for text in json.loads(path.read_text(encoding="utf-8"))]
    window = min(WINDOW, max_length(checkpoint.config))
    part = examples.examples(examples.language(documents, tokenizer, window), "language")
    return len(documents), part


def _score_articles(
    model: nn.Module, device: torch.device, articles: int, part: Sequence[Example]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """(summed losses, numbers of tokens), each by article."""
    scores, _ = evaluate(model, part, "language", BATCH, device)
    sums, counts = [0.0] * articles, [0] * articles
    for example, (total, count) in zip(part, scores, strict=True):
        sums[example.document] += total
        counts[example.document] += count
    if not all(map(math.isfinite, sums)):
        raise RefusedError("the model's loss is not finite")
    return tuple(sums), tuple(counts)


def main() -> None:
    """Print one line of JSON: the scores, or the reason why the artefact was refused."""
    request = json.loads(sys.argv[1])
    texts = {name: Path(path) for name, path in request["texts"].items()}
    check = Path(request["check"]) if request.get("check") else None
    score_artefact = prepare_scoring(
        request["model"], texts, request.get("threads", 0), request.get("device", "cpu")
    )
    if not sys.stdin.readline():
        return
    try:
        scores = score_artefact(Path(request["artefact"]), check)
    except RefusedError as error:
        _answer({"refused": str(error)})
        return
    perplexity = scores.check if scores.check is None or math.isfinite(scores.check) else None
    _answer({**vars(scores), "check": perplexity})


def _answer(body: dict[str, Any]) -> None:
    """Write one line of JSON to standard output."""
    sys.stdout.write(to_json(body) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
