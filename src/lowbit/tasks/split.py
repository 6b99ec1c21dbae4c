"""Cutting documents into parts by what they say, never by a run's seed.

With many documents each text's hash decides: the same text always falls into the same part, so
duplicates cannot straddle parts, and adding a document moves few others. With a handful (one long
text file) there is nothing to choose among, and the text is cut into consecutive stretches.
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
    """How much of the text a held-out part takes: a fraction of its characters, within limits.

    240,000 characters are about 60,000 tokens: enough to rank checkpoints by, and little enough to
    evaluate every epoch. A thousand sentences do the same for a classifier.
    """

    part: str
    fraction: float
    documents: int
    characters: int


HELD_OUT = (Share("selection", 0.05, 1_000, 240_000), Share("calibration", 0.05, 1_000, 240_000))
SCORED = Share("scored", 0.1, 10_000, 2_000_000)
# The last stretches of a text that is cut: train ends where selection starts, and so on.
STRETCHES = (0.8, 0.85, 0.9)


def hold_out(
    documents: Sequence[Document], shares: Sequence[Share] = HELD_OUT, where: str = "the task"
) -> dict[str, tuple[Document, ...]]:
    """`train` and one part for each share, every part in the documents' own order."""
    waiting = sorted({document.text for document in documents}, key=_digest)
    if len(waiting) <= len(shares):
        raise UserError(
            f"{where}: too little data: {len(waiting)} different documents cannot make "
            f"{len(shares) + 1} parts ({', '.join(['train', *(s.part for s in shares)])})"
        )
    home: dict[str, str] = {}
    amounts = [_amount(waiting, share) for share in shares]
    for share, amount in zip(shares, amounts, strict=True):
        home.update(dict.fromkeys(_take(waiting, *amount), share.part))
        waiting = [text for text in waiting if text not in home]
    parts: dict[str, list[Document]] = {"train": [], **{share.part: [] for share in shares}}
    for document in documents:
        parts[home.get(document.text, "train")].append(document)
    return {name: tuple(part) for name, part in parts.items()}


def without(documents: Sequence[Document], others: Sequence[Document]) -> tuple[Document, ...]:
    """The documents whose text is in none of `others`."""
    texts = {document.text for document in others}
    return tuple(document for document in documents if document.text not in texts)


def stretches(texts: Sequence[str], where: str) -> dict[str, tuple[Document, ...]]:
    """A few long texts, cut at paragraphs (or else lines) into the four parts in reading order."""
    for separator in ("\n\n", "\n"):
        pieces = [(i, piece) for i, text in enumerate(texts) for piece in _pieces(text, separator)]
        if len(pieces) >= len(PARTS):
            return _cut(pieces, separator)
    raise UserError(
        f"{where}: too little data: four parts ({', '.join(PARTS)}) need at least four lines, "
        f"and this has {len(pieces)}"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _amount(texts: Sequence[str], share: Share) -> tuple[int, float]:
    """At most so many texts, and about so many characters."""
    count = min(share.documents, max(1, round(2 * share.fraction * len(texts))))
    return count, min(share.characters, share.fraction * sum(map(len, texts)))


def _take(waiting: Sequence[str], count: int, characters: float) -> list[str]:
    """Texts in their order until there is enough, passing over those that alone are too much."""
    taken: list[str] = []
    remaining = characters
    for text in waiting:
        if len(taken) == count or remaining <= 0:
            break
        if len(text) <= characters:
            taken.append(text)
            remaining -= len(text)
    return taken or [min(waiting, key=len)]


def _pieces(text: str, separator: str) -> list[str]:
    pattern = r"\n\s*\n" if separator == "\n\n" else r"\n"
    return [piece for piece in re.split(pattern, text) if piece.strip()]


def _cut(pieces: list[tuple[int, str]], separator: str) -> dict[str, tuple[Document, ...]]:
    """Boundaries where the fractions of the characters lie, moved so that no part is empty."""
    ends = list(accumulate(len(piece) for _, piece in pieces))
    cuts = [0, *(bisect_left(ends, fraction * ends[-1]) for fraction in STRETCHES), len(pieces)]
    for i in range(1, len(PARTS)):
        cuts[i] = max(cuts[i], cuts[i - 1] + 1)
    for i in range(len(PARTS) - 1, 0, -1):
        cuts[i] = min(cuts[i], cuts[i + 1] - 1)
    return {
        part: _rejoined(pieces[start:stop], separator)
        for part, start, stop in zip(PARTS, cuts, cuts[1:], strict=False)
    }


def _rejoined(pieces: list[tuple[int, str]], separator: str) -> tuple[Document, ...]:
    """Neighbouring pieces of one document become one document again."""
    return tuple(
        Document(separator.join(piece for _, piece in group))
        for _, group in groupby(pieces, key=lambda piece: piece[0])
    )
