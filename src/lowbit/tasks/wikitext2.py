"""WikiText-2, with one document per article.

The corpus is one stream of lines. An article starts at a ` = Title = ` line between two blank
lines. The blank lines are necessary, because two formula lines of the test split (`= 1 <unk> / s
and a nominal <unk> k =`) look like titles but are inside a paragraph. Section titles
(` = = Title = = `) do not start a document. Words are separated by whitespace, and line ends are
not words. A perplexity per word is therefore over 241,211 words of the test split. Older papers
divide by 245,569 tokens, which are words and line ends.

The assets have no training split, so with them the model is trained on the validation split.
"""

from __future__ import annotations

from lowbit.core.spec import TaskSpec
from lowbit.tasks.base import Document, Source, Task
from lowbit.tasks.sources import assets, from_hub, text_of
from lowbit.tasks.split import HELD_OUT, Share, hold_out, without

FILES = ("wiki.valid.tokens", "wiki.test.tokens")
SELECTION = Share("selection", 0.1, 1_000, 240_000)
"""A tenth of a validation split of sixty articles, to choose checkpoints with."""


def read(spec: TaskSpec) -> Source:
    folder = assets("wikitext2", spec)
    return _hub() if folder is None else _local(*(text_of(folder / name) for name in FILES))


def articles(text: str) -> tuple[Document, ...]:
    """The articles of a split, each from its title line to the next title line."""
    lines = text.split("\n")
    starts = [i for i in range(len(lines)) if _starts(lines, i)]
    stops = [*starts[1:], len(lines)]
    return tuple(
        Document("\n".join(lines[start:stop])) for start, stop in zip(starts, stops, strict=True)
    )


def _starts(lines: list[str], i: int) -> bool:
    neighbours = [*lines[max(i - 1, 0) : i], *lines[i + 1 : i + 2]]
    return _is_title(lines[i]) and not any(line.strip() for line in neighbours)


def _is_title(line: str) -> bool:
    inner = line.removeprefix(" = ").removesuffix(" = ")
    return len(line) - len(inner) == 6 and not inner.startswith("= ") and not inner.endswith(" =")


def _local(valid: str, test: str) -> Source:
    scored = articles(test)
    parts = hold_out(without(articles(valid), scored), (SELECTION, *HELD_OUT[1:]))
    note = "WikiText-2: trained on the validation split, scored on the test split (with <unk>)"
    return Source({**parts, "scored": scored}, notes=(note,))


def _hub() -> Source:
    splits = from_hub("Salesforce/wikitext", "wikitext-2-raw-v1", "wikitext2", FILES)
    train, selection, scored = (
        articles("\n".join(row.rstrip("\n") for row in splits[name]["text"]))
        for name in ("train", "validation", "test")
    )
    parts = hold_out(without(train, (*selection, *scored)), HELD_OUT[1:])
    note = "WikiText-2 (raw): trained on the training split, scored on the test split"
    return Source({**parts, "selection": selection, "scored": scored}, notes=(note,))


TASK = Task("wikitext2", "language", read, "Wikipedia's good articles (WikiText-2)")
