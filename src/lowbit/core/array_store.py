"""Arrays on disk that are either whole and ours, or made again.

A file carries a seal: a hash over the key it was made for, the names, and every byte. Torn by a
crash, damaged, or made for something else, the seal does not fit and the file counts as absent.
Writing goes to a neighbour first and is moved into place, so a reader sees the old file or the new.
No pickle anywhere: the file is safetensors.
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
    """The arrays at `path`, or None where there is no whole file made for `key`."""
    try:
        arrays = safetensors.load(path.read_bytes())
        seal = arrays.pop(SEAL)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return arrays if np.array_equal(seal, _seal(key, arrays)) else None


def save(path: Path, key: str, arrays: Arrays) -> None:
    """Keep `arrays` at `path`; a failure leaves what was there."""
    content = safetensors.save({**arrays, SEAL: _seal(key, arrays)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise RunError(
            f"cannot write the cache file {path}: {error.strerror or error}. "
            "LOWBIT_CACHE names another folder for it."
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
    sum_ = hashlib.sha256(key.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sum_.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
        sum_.update(array.tobytes())
    return np.frombuffer(sum_.digest(), dtype=np.uint8)
