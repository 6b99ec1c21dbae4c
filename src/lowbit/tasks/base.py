"""Dataclasses of this package: document, source, task, example, batch.

Every task has the same four disjoint parts, and each part has one use:

    train         training
    selection     choosing a checkpoint
    calibration   measuring sensitivity
    scored        the final score

A `Source` does not depend on a run's seed. Two runs that differ only in the seed are scored on the
same text, so their scores can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from lowbit.core.spec import TaskSpec

Kind = Literal["language", "classification"]

PARTS = ("train", "selection", "calibration", "scored")
# A marker inside documents. It becomes the tokeniser's end-of-text token and is not a word.
END = "<|endoftext|>"
# The target of a token without a loss.
IGNORED = -100


@dataclass(frozen=True)
class Document:
    """A text, and in classification the number of its class. Documents are never concatenated."""

    text: str
    label: int | None = None


@dataclass(frozen=True)
class Source:
    """The text of a task. `parts` has every name of PARTS; no text is in two parts.

    `labels` are the classes' names (none for language). `notes` are printed below tables with
    scores on this data.
    """

    parts: dict[str, tuple[Document, ...]]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A task plug-in: a name, a kind, and a function that reads the text."""

    name: str
    kind: Kind
    read: Callable[[TaskSpec], Source]
    about: str

    @property
    def metric(self) -> Literal["loss", "accuracy"]:
        """Language tasks: loss in nats per token; its exponential is the perplexity."""
        return "loss" if self.kind == "language" else "accuracy"

    @property
    def better(self) -> Literal["lower", "higher"]:
        return "lower" if self.kind == "language" else "higher"


@dataclass(frozen=True, eq=False)
class Example:
    """The unit of scoring: each example gets one (sum, count) score, with a count of its targets.

    language: `target[i]` is the token that follows `ids[i]`, or IGNORED. `words` is the number of
    words that begin among the scored tokens; summed over a document it is its word count.
    classification: `target` has one entry, the class, and `words` is 0.
    `document` is the index of the example's document in the part.
    """

    ids: np.ndarray
    target: np.ndarray
    document: int
    words: int
    kind: Kind = "language"


@dataclass(frozen=True, eq=False)
class Data:
    """A task as token ids. `fingerprint` covers the text, the tokeniser and the settings.

    If `TaskSpec.rest` scores only some of the examples left out of training, `parts` also has
    "spare": those that are neither trained on nor scored.
    """

    kind: Kind
    parts: dict[str, tuple[Example, ...]]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Packed examples without padding. `index`: their positions in the part.

    `target`: the next tokens, with IGNORED for tokens without a loss (language), or one class per
    example. `labels`: the number of loss terms of each example.
    """

    ids: Int64[Tensor, " tokens"]
    target: Int64[Tensor, " targets"]
    lengths: tuple[int, ...]
    labels: tuple[int, ...]
    index: tuple[int, ...]
