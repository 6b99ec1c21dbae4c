"""Turn documents into arrays of token ids, and arrays into examples.

In a language task a document is the tokens t = `end, tokens, end`. The first token is predicted
from end-of-text alone, and the last prediction is end-of-text. The document is cut into windows of
W predictions:

    ids    = t[k W     : k W + W]
    target = t[k W + 1 : k W + W + 1]

In a chat template the tokens are those of the rendered dialogue, and the targets of its markup are
IGNORED (`chat.py`).

Every token is predicted exactly once, and no window spans two documents. The first tokens of a
window have little context, so the loss is a little higher than with a sliding window. It is
comparable between models with the same tokeniser. Models with different tokenisers are compared per
word. A word belongs to the window in which its first token is predicted.

A part is stored as flat arrays: the concatenated `ids` and `target`, and for each example `lengths`
(of its ids), `document` and `words`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from lowbit.core.array_store import Arrays
from lowbit.core.errors import UserError
from lowbit.tasks import chat
from lowbit.tasks.base import END, IGNORED, Document, Example, Kind

CHUNK = 1_000


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token between documents."""
    for name in ("eos_token_id", "bos_token_id", "sep_token_id"):
        token = getattr(tokenizer, name)
        if token is not None:
            return int(token)
    raise UserError(
        "the tokeniser has no end-of-text token: set 'eos_token' (or 'bos_token' or 'sep_token') "
        "in its tokenizer_config.json"
    )


def language(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    in_chat: bool = False,
) -> Arrays:
    """Flat arrays of every window of every document; of a dialogue, those with a scored token."""
    end = end_of_text(tokenizer)
    ids, target = [], []
    lengths: list[int] = []
    owner: list[int] = []
    words: list[int] = []
    for number, document in enumerate(documents):
        if in_chat:
            tokens, targets, starts = _in_chat(document, tokenizer, end)
        else:
            tokens, starts = _with_words(document.text, tokenizer, end)
            targets = tokens[1:]
        firsts = range(0, len(targets), window)
        counts = np.bincount((starts - 1) // window, minlength=len(firsts)).tolist()
        for first, count in zip(firsts, counts, strict=True):
            stretch = slice(first, min(first + window, len(targets)))
            if (targets[stretch] == IGNORED).all():
                continue
            ids.append(tokens[stretch])
            target.append(targets[stretch])
            lengths.append(stretch.stop - first)
            owner.append(number)
            words.append(count)
    return _flat(ids, target, lengths, owner, words)


def _in_chat(
    document: Document, tokenizer: PreTrainedTokenizerBase, end: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A dialogue's tokens after `end`, their targets, and the position of each word."""
    tokens, scored, words = chat.encoded(document, tokenizer)
    targets = np.where(scored, tokens, IGNORED).astype(np.int32)
    return np.array([end, *tokens], dtype=np.int32), targets, words + 1


def classification(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> Arrays:
    """Flat arrays with one example per document, with the tokeniser's special tokens."""
    texts = [document.text for document in documents]
    ids = [row for chunk in _chunks(texts) for row in _ids(chunk, tokenizer)]
    target = [[document.label] for document in documents]
    count = len(documents)
    return _flat(ids, target, [len(row) for row in ids], range(count), [0] * count)


def examples(arrays: Arrays, kind: Kind) -> tuple[Example, ...]:
    """One `Example` per entry, with views into the flat arrays."""
    lengths = arrays["lengths"].tolist()
    ids = _slices(lengths)
    targets = ids if kind == "language" else _slices([1] * len(lengths))
    rows = zip(ids, targets, arrays["document"].tolist(), arrays["words"].tolist(), strict=True)
    return tuple(
        Example(arrays["ids"][i], arrays["target"][t], document, words, kind)
        for i, t, document, words in rows
    )


def _with_words(
    text: str, tokenizer: PreTrainedTokenizerBase, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens `end, tokens, end`, and the position of every word's first token among them.

    A word's first token is the first one that ends after the word's first character. A word that
    the tokeniser drops is counted with the next token.
    """
    pieces = text.split(END)
    encoded = tokenizer(
        pieces, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    tokens, starts = [end], [np.empty(0, dtype=np.int64)]
    for piece, ids, offsets in zip(
        pieces, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        ends = np.maximum.accumulate(np.array(offsets, dtype=np.int64).reshape(-1, 2)[:, 1])
        word_starts = [match.start() for match in re.finditer(r"\S+", piece)]
        starts.append(len(tokens) + np.searchsorted(ends, word_starts, side="right"))
        tokens += [*ids, end]
    return np.array(tokens, dtype=np.int32), np.concatenate(starts)


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer(texts, verbose=False)["input_ids"]


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    return (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))


def _flat(
    ids: Sequence, target: Sequence, lengths: Sequence, owner: Sequence, words: Sequence
) -> Arrays:
    tokens = {"ids": np.concatenate(ids), "target": np.concatenate(target)}
    columns = {**tokens, "lengths": lengths, "document": owner, "words": words}
    return {name: np.asarray(column, dtype=np.int32) for name, column in columns.items()}


def _slices(lengths: Sequence[int]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(accumulate(lengths, initial=0))]
