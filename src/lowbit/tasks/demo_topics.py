"""The documentation inside Python (`pydoc_data.topics`), with one document per topic.

The demo's tiny model is pretrained on it. That module holds only a dictionary, so it is safe to
import.
"""

from __future__ import annotations

import importlib

from lowbit.core.errors import UserError
from lowbit.core.spec import TaskSpec
from lowbit.tasks.base import Document, Source, Task
from lowbit.tasks.demo import source_of


def read(spec: TaskSpec) -> Source:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise UserError(
            "this Python has no documentation (pydoc_data): install the full Python package of "
            "your system"
        ) from error
    # Two names may have the same topic.
    texts = dict.fromkeys(topics[name] for name in sorted(topics))
    return source_of([Document(text) for text in texts if text.strip()], "language documentation")


TASK = Task("demo-topics", "language", read, "the documentation inside Python; no download")
