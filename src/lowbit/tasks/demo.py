"""The demo's text: the docstrings of Python's standard library.

The demo needs text without a download, and the same text every time. The library's files are parsed
and not imported, so none of their code runs. Modules are taken in the order of a hash of their
names until a budget is used up, so that all letters of the alphabet are represented. The text
differs between Python versions and distributors. The notes hold a hash of it, and only scores with
equal hashes are comparable.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from lowbit.core.array_store import load_or_compute
from lowbit.core.cache import cache_dir
from lowbit.core.errors import UserError
from lowbit.core.spec import TaskSpec
from lowbit.tasks.base import Document, Source, Task
from lowbit.tasks.split import HELD_OUT, SCORED, hold_out

CHARACTERS = 1_200_000
SHORTEST = 400
SKIPPED = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"}


def read(spec: TaskSpec) -> Source:
    documents = docstrings()
    if not documents:
        raise UserError(
            "the demo's text is missing: this Python has no source files of its standard library"
        )
    return source_of(documents, "docstrings of the standard library")


def source_of(documents: Sequence[Document], what: str) -> Source:
    """Four parts of `documents`, and a note with the Python version and a hash of the text."""
    digest = hashlib.sha256("\0".join(document.text for document in documents).encode())
    note = f"{what} of Python {platform.python_version()}, text {digest.hexdigest()[:16]}"
    return Source(hold_out(documents, (*HELD_OUT, SCORED)), notes=(note,))


@cache
def docstrings() -> tuple[Document, ...]:
    """One document per module, sorted by module, up to the budget.

    Parsing the library takes seconds and every run of a study needs the text, so it is cached for
    each build of Python.
    """
    key = hashlib.sha256(f"{sys.version}|{_root()}|{CHARACTERS}|{SHORTEST}".encode()).hexdigest()
    path = cache_dir() / "texts" / f"docstrings-{key[:16]}.safetensors"
    arrays = load_or_compute(path, key, lambda: {"texts": _to_array(_texts())})
    return tuple(Document(text) for text in json.loads(arrays["texts"].tobytes()))


def _to_array(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)


def _texts() -> list[str]:
    """The docstrings of modules, as one text per module."""
    texts: dict[str, str] = {}
    remaining = CHARACTERS
    for name, path in sorted(_modules().items(), key=lambda item: _digest(item[0])):
        text = _docstrings_of(path)
        if SHORTEST <= len(text) <= remaining and text not in texts.values():
            texts[name] = text
            remaining -= len(text)
        if remaining < SHORTEST:
            break
    return [texts[name] for name in sorted(texts)]


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _modules() -> dict[str, Path]:
    """The library's files by dotted name, without its tests and bundled programs."""
    root = _root()
    names = sys.stdlib_module_names - SKIPPED
    files = [root / f"{name}.py" for name in names]
    files += [file for name in names for file in (root / name).rglob("*.py")]
    inside = [(file.relative_to(root).with_suffix("").parts, file) for file in files]
    return {".".join(p): file for p, file in inside if not SKIPPED & set(p) and file.is_file()}


def _docstrings_of(path: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    return "\n\n".join(_walk(tree))


def _walk(node: ast.AST) -> Iterator[str]:
    """The docstrings inside `node`, in the order of the file."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield text
    for child in getattr(node, "body", ()):
        if isinstance(child, ast.stmt):
            yield from _walk(child)


TASK = Task("demo", "language", read, "docstrings of this Python's standard library; no download")
