"""The words of this package: a document, a source, a task, an example, a batch.

Every task has the same four parts, and what each is for is a promise the rest of the lab keeps:

    train         gradients
    selection     choosing a checkpoint; held out of training
    calibration   measuring sensitivity; held out of both
    scored        read once, at the end

Nothing in a `Source` depends on a run's seed, so two runs that differ only in the seed are scored
on the same text and can be compared in pairs.
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
# Inside a document it becomes the tokeniser's own end-of-text token; it is no word.
END = "<|endoftext|>"


@dataclass(frozen=True)
class Document:
    """A text that is never joined to another; in classification with the number of its class."""

    text: str
    label: int | None = None


@dataclass(frozen=True)
class Source:
    """What reading gives. `parts` has every name of PARTS and no text in two of them.

    `labels` are the classes' names (none for language). `notes` are what a table made from this
    data must say beside it.
    """

    parts: dict[str, tuple[Document, ...]]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A plug-in: a name, a kind, and a function that reads the text."""

    name: str
    kind: Kind
    read: Callable[[TaskSpec], Source]
    about: str

    @property
    def metric(self) -> Literal["loss", "accuracy"]:
        """Language: nats per token, whose exponential is the perplexity."""
        return "loss" if self.kind == "language" else "accuracy"

    @property
    def better(self) -> Literal["lower", "higher"]:
        return "lower" if self.kind == "language" else "higher"


@dataclass(frozen=True, eq=False)
class Example:
    """One thing that gets one (sum, count) score; `len(target)` is its count.

    language: `target[i]` is the token that follows `ids[i]`, and `words` counts the words that
    begin among the predicted tokens, so that words summed over a document are its words.
    classification: `target` has one entry, the class, and `words` is 0.
    `document` is the position of its document in the part.
    """

    ids: np.ndarray
    target: np.ndarray
    document: int
    words: int
    kind: Kind = "language"


@dataclass(frozen=True, eq=False)
class Data:
    """A task as token ids. `fingerprint` covers the text, the tokeniser and the settings.

    Of a task that scores what training leaves, `parts` may also have "spare": what is left of that.
    """

    kind: Kind
    parts: dict[str, tuple[Example, ...]]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples one after another, without padding. `index` are their positions in the part.

    `target` is -100 where a token does not count (language), or one class an example; `labels`
    says how many terms of the loss each example has.
    """

    ids: Int64[Tensor, " tokens"]
    target: Int64[Tensor, " targets"]
    lengths: tuple[int, ...]
    labels: tuple[int, ...]
    index: tuple[int, ...]
