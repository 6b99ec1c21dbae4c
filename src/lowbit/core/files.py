"""Atomic file writes, file digests, and JSON without NaN.

Every result file is written to a temporary neighbour and renamed over its path, so a reader sees
the old file or the new one, even if the process is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: bytes) -> None:
    """Write a complete file or none. Missing folders are created."""
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


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, one by one."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write objects as a JSONL file, atomically."""
    write_atomic(path, "".join(to_json(row) + "\n" for row in rows).encode())


def to_json(value: Any) -> str:
    """Compact JSON. NaN and infinity raise ValueError, because JSON cannot express them."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
