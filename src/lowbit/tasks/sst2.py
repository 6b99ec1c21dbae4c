"""SST-2: classify pieces of film reviews as positive or negative.

The split is GLUE's. Scores are on its 872 development sentences, because the test labels are not
public. At 92 % accuracy their standard error is about 0.9 points, so one point on one seed is
noise. The training set has 371 duplicates, five of them with both labels. They stay in, as in other
work, but each sentence is in one part only.
"""

from __future__ import annotations

from pathlib import Path

from lowbit.core.errors import UserError
from lowbit.core.spec import TaskSpec
from lowbit.tasks.base import Document, Source, Task
from lowbit.tasks.sources import assets, from_hub, text_of
from lowbit.tasks.split import hold_out, without

FILES = ("train.tsv", "dev.tsv")
LABELS = ("negative", "positive")


def read(spec: TaskSpec) -> Source:
    folder = assets("sst2", spec)
    train, scored = _hub() if folder is None else (_table(folder / name) for name in FILES)
    parts = hold_out(without(train, scored))
    note = f"SST-2: scored on the development split ({len(scored)} sentences)"
    return Source({**parts, "scored": scored}, LABELS, (note,))


def _table(path: Path) -> tuple[Document, ...]:
    """Lines of `label<TAB>sentence` below a header that starts with `label`."""
    header, *lines = text_of(path).split("\n")
    if header.split("\t")[0] != "label":
        raise UserError(
            f"{path}, line 1: the header should be 'label<TAB>sentence', not {header!r}"
        )
    numbered = enumerate(lines, start=2)
    return tuple(_row(line, f"{path}, line {number}") for number, line in numbered if line)


def _row(line: str, where: str) -> Document:
    label, _, sentence = line.partition("\t")
    if label not in ("0", "1") or not sentence.strip():
        raise UserError(f"{where}: should be 0 or 1, a tab and a sentence, not {line[:60]!r}")
    return Document(sentence.strip(), int(label))


def _hub() -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    splits = from_hub("stanfordnlp/sst2", None, "sst2", FILES)
    train, scored = (
        tuple(
            Document(sentence.strip(), int(label))
            for sentence, label in zip(split["sentence"], split["label"], strict=True)
        )
        for split in (splits["train"], splits["validation"])
    )
    return train, scored


TASK = Task("sst2", "classification", read, "positive or negative film reviews (SST-2, GLUE)")
