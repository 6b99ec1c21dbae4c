"""Text from the pretraining mix of the assets' language model, lm-14m.

The training part comes from text that the model was pretrained on. The scored part comes from
held-out text of the same mix. A rise of the loss on this text comes from quantisation alone. On
other text the loss also depends on how little the model was trained for that text.
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
            "lm-text is not on the hub: set LOWBIT_ASSETS to a folder with data/lm-text/seen.txt "
            "and data/lm-text/heldout.txt"
        )
    scored = documents_of(text_of(folder / "heldout.txt"))
    parts = hold_out(without(documents_of(text_of(folder / "seen.txt")), scored))
    note = "lm-text: trained on text that lm-14m was pretrained on, scored on text it never saw"
    return Source({**parts, "scored": scored}, notes=(note,))


TASK = Task("lm-text", "language", read, "the pretraining mix of the assets' language model")
