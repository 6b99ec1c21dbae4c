"""Files that are whole or not there, and JSON that has no NaN in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: bytes) -> None:
    """All of it or none: a temporary neighbour, flushed to the disk, then renamed over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_atomic(path, "".join(to_json(row) + "\n" for row in rows).encode())


def to_json(value: Any) -> str:
    """JSON without NaN: a number that is none has no place in a record."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
