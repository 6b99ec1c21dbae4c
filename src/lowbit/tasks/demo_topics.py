"""The documentation that ships inside Python (`pydoc_data.topics`), a topic a document.

The demo's tiny model is pretrained on it. Importing that module runs nothing: it is one literal.
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
            "this Python came without its documentation (pydoc_data): install your system's full "
            "Python package"
        ) from error
    # Two names may hold one topic.
    texts = dict.fromkeys(topics[name] for name in sorted(topics))
    return source_of([Document(text) for text in texts if text.strip()], "language documentation")


TASK = Task("demo-topics", "language", read, "the documentation inside Python; no download")
