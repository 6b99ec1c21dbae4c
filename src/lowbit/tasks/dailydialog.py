"""DailyDialog: everyday conversations. A dialogue is a document, and all turns are scored.

The files mark the end of a turn with `__eou__`. Between turns this mark and the blanks around it
become the end-of-text token, as in DialoGPT's training. The last mark becomes the end of the
document. The mark is not counted as a word.
"""

from __future__ import annotations

from collections.abc import Iterable

from lowbit.core.spec import TaskSpec
from lowbit.tasks.base import END, Document, Source, Task
from lowbit.tasks.sources import assets, from_hub, text_of
from lowbit.tasks.split import HELD_OUT, hold_out, without

FILES = ("train.txt", "valid.txt")
TURNS = "each turn ends in end-of-text, and all turns count"


def read(spec: TaskSpec) -> Source:
    folder = assets("dailydialog", spec)
    return _hub() if folder is None else _local(*(text_of(folder / name) for name in FILES))


def dialogue(turns: Iterable[str]) -> Document:
    """A document of the turns that are not empty, with end-of-text between them."""
    return Document(END.join(turn.strip() for turn in turns if turn.strip()))


def _lines(text: str) -> tuple[Document, ...]:
    return tuple(dialogue(line.split("__eou__")) for line in text.split("\n") if line.strip())


def _local(train: str, valid: str) -> Source:
    scored = _lines(valid)
    parts = hold_out(without(_lines(train), scored))
    note = f"DailyDialog: scored on the validation split; {TURNS}"
    return Source({**parts, "scored": scored}, notes=(note,))


def _hub() -> Source:
    """Load a parquet copy: the original is a loading script, which `datasets` no longer runs."""
    splits = from_hub("OpenRL/daily_dialog", None, "dailydialog", FILES)
    train, valid, scored = (
        tuple(dialogue(turns) for turns in splits[name]["dialog"])
        for name in ("train", "validation", "test")
    )
    selection = without(valid, scored)
    parts = hold_out(without(train, (*selection, *scored)), HELD_OUT[1:])
    note = (
        f"DailyDialog: scored on the test split; {TURNS}; training and validation dialogues "
        "that are also in the test split left out"
    )
    return Source({**parts, "selection": selection, "scored": scored}, notes=(note,))


TASK = Task("dailydialog", "language", read, "everyday conversations (DailyDialog)")
