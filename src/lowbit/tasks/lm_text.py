"""The assets' language model on its own domain: what it was trained on, and what it never saw.

Damage measured here is the damage of storage alone; on any other text it is mixed with the model's
being undertrained for that text. Training starts from text the model has seen before.
"""

from __future__ import annotations

from lowbit.core.errors import UserError
from lowbit.core.spec import TaskSpec
from lowbit.tasks.base import Source, Task
from lowbit.tasks.sources import assets, documents_of, text_of
from lowbit.tasks.split import hold_out, without


def read(spec: TaskSpec) -> Source:
    folder = assets("lm-text", spec)
    if folder is None:
        raise UserError(
            "lm-text is not on the hub: set LOWBIT_ASSETS to a folder that holds seen.txt and "
            "heldout.txt under data/lm-text/"
        )
    scored = documents_of(text_of(folder / "heldout.txt"))
    parts = hold_out(without(documents_of(text_of(folder / "seen.txt")), scored))
    note = "lm-text: trained on text that lm-14m was pretrained on, scored on text it never saw"
    return Source({**parts, "scored": scored}, notes=(note,))


TASK = Task("lm-text", "language", read, "the mix that the assets' language model was trained on")
