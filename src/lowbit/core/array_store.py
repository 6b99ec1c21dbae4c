"""Cached arrays in a safetensors file, which is checked when it is read.

A file holds a seal: a hash over its key, the arrays' names and every byte. If a crash cut the file
off, or it was damaged or written for another key, the seal does not match. The file is then treated
as absent and its arrays are computed again. A new file is written next to the old one and renamed
over it, so a reader sees the old file or the new one. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from lowbit.core.errors import RunError

Arrays = dict[str, np.ndarray]
SEAL = "seal"


def load_or_compute(path: Path, key: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays cached at `path` for `key`; computed by `make` and saved if there are none."""
    cached = load(path, key)
    if cached is not None:
        return cached
    arrays = make()
    save(path, key, arrays)
    return arrays


def load(path: Path, key: str) -> Arrays | None:
    """The arrays at `path`, or None if there is no complete file for `key`."""
    try:
        arrays = safetensors.load(path.read_bytes())
        seal = arrays.pop(SEAL)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return arrays if np.array_equal(seal, _seal(key, arrays)) else None


def save(path: Path, key: str, arrays: Arrays) -> None:
    """Write `arrays` to `path`; if that fails, the old file stays."""
    content = safetensors.save({**arrays, SEAL: _seal(key, arrays)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise RunError(
            f"cannot write the cache file {path}: {error.strerror or error}. "
            "Set LOWBIT_CACHE to another folder."
        ) from error


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _seal(key: str, arrays: Arrays) -> np.ndarray:
    digest = hashlib.sha256(key.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)
