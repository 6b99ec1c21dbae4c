"""Split documents into parts by their text, independently of a run's seed.

With many documents, the hash of each text decides. Equal texts are always in the same part, and
adding a document moves few others. With fewer than four documents, such as one long text file, the
text is cut in reading order.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from lowbit.core.errors import UserError
from lowbit.tasks.base import PARTS, Document


@dataclass(frozen=True)
class Share:
    """The size of a held-out part: a fraction of the text's characters, within limits.

    The usual limit of 240,000 characters is about 60,000 tokens. That is enough to rank checkpoints
    and little enough to evaluate in every epoch. For a classifier, 1,000 sentences are.
    """

    part: str
    fraction: float
    documents: int
    characters: int


HELD_OUT = (Share("selection", 0.05, 1_000, 240_000), Share("calibration", 0.05, 1_000, 240_000))
SCORED = Share("scored", 0.1, 10_000, 2_000_000)
# The fractions of a text at which selection, calibration and scored begin, when it is cut in order.
CUTS = (0.8, 0.85, 0.9)


def hold_out(
    documents: Sequence[Document], shares: Sequence[Share] = HELD_OUT, where: str = "the task"
) -> dict[str, tuple[Document, ...]]:
    """`train` and one part for each share; documents keep their order within a part."""
    texts = sorted({document.text for document in documents}, key=_digest)
    if len(texts) <= len(shares):
        raise UserError(
            f"{where}: too little data: {len(texts)} different documents, but "
            f"{len(shares) + 1} parts ({', '.join(['train', *(s.part for s in shares)])})"
        )
    part_of: dict[str, str] = {}
    amounts = [_amount(texts, share) for share in shares]
    for share, amount in zip(shares, amounts, strict=True):
        part_of.update(dict.fromkeys(_take(texts, *amount), share.part))
        texts = [text for text in texts if text not in part_of]
    parts: dict[str, list[Document]] = {"train": [], **{share.part: [] for share in shares}}
    for document in documents:
        parts[part_of.get(document.text, "train")].append(document)
    return {name: tuple(part) for name, part in parts.items()}


def without(documents: Sequence[Document], others: Sequence[Document]) -> tuple[Document, ...]:
    """The documents whose text is in none of `others`."""
    texts = {document.text for document in others}
    return tuple(document for document in documents if document.text not in texts)


def split_in_order(texts: Sequence[str], where: str) -> dict[str, tuple[Document, ...]]:
    """Cut a few long texts into the four parts in reading order, at paragraphs or else at lines."""
    for separator in ("\n\n", "\n"):
        pieces = [(i, piece) for i, text in enumerate(texts) for piece in _pieces(text, separator)]
        if len(pieces) >= len(PARTS):
            return _cut(pieces, separator)
    raise UserError(
        f"{where}: too little data: four parts ({', '.join(PARTS)}) need at least four lines, "
        f"but there are {len(pieces)}"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _amount(texts: Sequence[str], share: Share) -> tuple[int, float]:
    """(the largest number of texts, the approximate number of characters) of a part."""
    count = min(share.documents, max(1, round(2 * share.fraction * len(texts))))
    return count, min(share.characters, share.fraction * sum(map(len, texts)))


def _take(texts: Sequence[str], count: int, characters: float) -> list[str]:
    """The first texts until there are enough, without those that are too long by themselves."""
    selection: list[str] = []
    remaining = characters
    for text in texts:
        if len(selection) == count or remaining <= 0:
            break
        if len(text) <= characters:
            selection.append(text)
            remaining -= len(text)
    return selection or [min(texts, key=len)]


def _pieces(text: str, separator: str) -> list[str]:
    pattern = r"\n\s*\n" if separator == "\n\n" else r"\n"
    return [piece for piece in re.split(pattern, text) if piece.strip()]


def _cut(pieces: list[tuple[int, str]], separator: str) -> dict[str, tuple[Document, ...]]:
    """Cut at fractions of the characters, and move the cuts so that no part is empty."""
    ends = list(accumulate(len(piece) for _, piece in pieces))
    cuts = [0, *(bisect_left(ends, fraction * ends[-1]) for fraction in CUTS), len(pieces)]
    for i in range(1, len(PARTS)):
        cuts[i] = max(cuts[i], cuts[i - 1] + 1)
    for i in range(len(PARTS) - 1, 0, -1):
        cuts[i] = min(cuts[i], cuts[i + 1] - 1)
    return {
        part: _documents(pieces[start:stop], separator)
        for part, start, stop in zip(PARTS, cuts, cuts[1:], strict=False)
    }


def _documents(pieces: list[tuple[int, str]], separator: str) -> tuple[Document, ...]:
    """Join neighbouring pieces of the same text into a document."""
    return tuple(
        Document(separator.join(piece for _, piece in group))
        for _, group in groupby(pieces, key=lambda piece: piece[0])
    )
