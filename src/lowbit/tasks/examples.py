"""Documents become arrays of token ids, and arrays become examples.

A document of language is `end, tokens, end`: the first prediction is made from nothing but
end-of-text, the last one is that the text is over. It is cut into windows of W predictions,

    ids    = t[k W     : k W + W]
    target = t[k W + 1 : k W + W + 1]

so every token is predicted exactly once, and no window sees two documents. That is stricter than
a sliding window (the first tokens of a window have little context, which raises the loss a
little) and comparable between any two models that share the tokeniser. Across tokenisers compare
per word: a word belongs to the window in which its first token is predicted.

A part is kept as flat arrays: `ids` and `target` end to end, and per example `lengths` (of its
ids), `document` and `words`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from lowbit.core.array_store import Arrays
from lowbit.core.errors import UserError
from lowbit.tasks.base import END, Document, Example, Kind

CHUNK = 1_000


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands between documents."""
    for name in ("eos_token_id", "bos_token_id", "sep_token_id"):
        token = getattr(tokenizer, name)
        if token is not None:
            return int(token)
    raise UserError(
        "the tokeniser has no end-of-text token: its tokenizer_config.json should name an "
        "'eos_token' (or 'bos_token' or 'sep_token')"
    )


def language(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, window: int
) -> Arrays:
    """Flat arrays of every window of every document."""
    end = end_of_text(tokenizer)
    ids, target = [], []
    lengths: list[int] = []
    owner: list[int] = []
    words: list[int] = []
    for number, document in enumerate(documents):
        tokens, starts = _with_words(document.text, tokenizer, end)
        count = len(tokens) - 1
        sizes = [min(window, count - first) for first in range(0, count, window)]
        ids.append(tokens[:-1])
        target.append(tokens[1:])
        lengths.extend(sizes)
        owner.extend([number] * len(sizes))
        words.extend(np.bincount((starts - 1) // window, minlength=len(sizes)).tolist())
    return _flat(ids, target, lengths, owner, words)


def classification(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> Arrays:
    """Flat arrays with one example a document, special tokens as the tokeniser sets them."""
    texts = [document.text for document in documents]
    ids = [row for chunk in _chunks(texts) for row in _ids(chunk, tokenizer)]
    target = [[document.label] for document in documents]
    count = len(documents)
    return _flat(ids, target, [len(row) for row in ids], range(count), [0] * count)


def examples(arrays: Arrays, kind: Kind) -> tuple[Example, ...]:
    """Views into the flat arrays, one `Example` each."""
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
    """`end, tokens, end`, and the position in it of every word's first token.

    A word's first token is the first that reaches beyond the word's first character; a word that
    the tokeniser drops without a trace counts with the token after it.
    """
    pieces = text.split(END)
    encoded = tokenizer(
        pieces, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    tokens, starts = [end], [np.empty(0, dtype=np.int64)]
    for piece, ids, offsets in zip(
        pieces, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        reach = np.maximum.accumulate(np.array(offsets, dtype=np.int64).reshape(-1, 2)[:, 1])
        begins = [match.start() for match in re.finditer(r"\S+", piece)]
        starts.append(len(tokens) + np.searchsorted(reach, begins, side="right"))
        tokens += [*ids, end]
    return np.array(tokens, dtype=np.int32), np.concatenate(starts)


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer(texts, verbose=False)["input_ids"]


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    return (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))


def _flat(
    ids: Sequence, target: Sequence, lengths: Sequence, owner: Sequence, words: Sequence
) -> Arrays:
    joined = {"ids": np.concatenate(ids), "target": np.concatenate(target)}
    columns = {**joined, "lengths": lengths, "document": owner, "words": words}
    return {name: np.asarray(column, dtype=np.int32) for name, column in columns.items()}


def _slices(lengths: Sequence[int]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(accumulate(lengths, initial=0))]
