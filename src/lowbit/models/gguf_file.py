"""Reads the header of a GGUF file: its metadata, and where each tensor lies.

Nothing in the file is trusted. Every count and length is compared with the bytes that are left
before anything is read, so a file that lies costs no more memory than its own size. Tensors are
read later, one at a time (`read_bytes`).

The layout is described in ggml's documentation (docs/gguf.md): a magic number, a version, the
numbers of tensors and of metadata entries, the entries, a description of each tensor, padding, and
the tensors' bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lowbit.core.errors import RunError, UserError

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_NAME, MAX_DIMS = 1024, 4
STRING, ARRAY, BOOL = 8, 9, 7
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8",
    11: "<i8", 12: "<f8",
}  # fmt: skip
"""Types of metadata values -> numpy types."""

BLOCKS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56),
}  # fmt: skip
"""Tensor type -> name, numbers per block, bytes per block."""


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies. `shape` has the usual order, rows first; the file has the opposite."""

    name: str
    kind: int
    shape: tuple[int, ...]
    start: int

    @property
    def type_name(self) -> str:
        return BLOCKS[self.kind][0]

    @property
    def nbytes(self) -> int:
        _, numbers, size = BLOCKS[self.kind]
        return prod(self.shape) // numbers * size


@dataclass(frozen=True)
class GgufFile:
    """The header of a file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def read_bytes(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        """The bytes of a tensor."""
        data = np.empty(tensor.nbytes, np.uint8)
        with self.path.open("rb") as file:
            file.seek(tensor.start)
            if file.readinto(data) != tensor.nbytes:  # type: ignore[arg-type]
                raise RunError(f"{self.path} ends within the tensor '{tensor.name}'")
        return data


class _Reader:
    """Reads numbers and strings, never more than the file holds."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.left = file, path, size

    def damaged(self, reason: str) -> UserError:
        return UserError(f"{self.path} is damaged or not a GGUF file: {reason}")

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise self.damaged(f"{what} needs {count:,} bytes, and {self.left:,} are left")
        data = self.file.read(count)
        if len(data) != count:
            raise self.damaged(f"it ends within {what}")
        self.left -= count
        return data

    def number(self, kind: str, what: str) -> int:
        (value,) = struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind), what))
        return int(value)

    def string(self, what: str, most: int | None = None) -> str:
        length = self.number("Q", f"the length of {what}")
        if most is not None and length > most:
            raise self.damaged(f"{what} is {length:,} bytes long; the most is {most:,}")
        return self.take(length, what).decode("utf-8", "replace")

    def value(self, kind: int, what: str) -> Any:
        """A metadata value; arrays of numbers are numpy arrays, arrays of strings are lists."""
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            return self._array(what)
        if kind not in _NUMBERS:
            raise self.damaged(f"{what} has the unknown type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        value = np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()
        return bool(value) if kind == BOOL else value

    def _array(self, what: str) -> Any:
        kind, count = self.number("I", what), self.number("Q", what)
        if kind == STRING:
            # Each string takes at least the eight bytes of its length.
            if 8 * count > self.left:
                raise self.damaged(f"{what} lists {count:,} strings, more than the file holds")
            return [self.string(what) for _ in range(count)]
        if kind not in _NUMBERS:
            raise self.damaged(f"{what} is an array of the unknown or nested type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize, what), dtype)


def read_gguf(path: Path) -> GgufFile:
    """Read and check a file's header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, path, size)
        if reader.take(4, "the magic number") != MAGIC:
            raise reader.damaged("it does not start with GGUF")
        version = reader.number("I", "the version")
        if version not in VERSIONS:
            raise UserError(f"{path} has GGUF version {version}; lowbit reads versions 2 and 3")
        tensor_count = reader.number("Q", "the number of tensors")
        entry_count = reader.number("Q", "the number of metadata entries")
        metadata = _metadata(reader, entry_count)
        described = _tensors(reader, tensor_count)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**16:
            raise reader.damaged(f"its alignment is {alignment}")
        data = -(-(size - reader.left) // alignment) * alignment
    return GgufFile(path, metadata, _placed(reader, described, data, size, alignment))


def _metadata(reader: _Reader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = reader.string("the name of a metadata entry", MAX_NAME)
        if key in metadata:
            raise reader.damaged(f"it has two entries '{key}'")
        metadata[key] = reader.value(reader.number("I", key), key)
    return metadata


def _tensors(reader: _Reader, count: int) -> list[GgufTensor]:
    """The tensors as described, with starts relative to the first one."""
    tensors = []
    for _ in range(count):
        name = reader.string("the name of a tensor", MAX_NAME)
        what = f"the description of '{name}'"
        dims = reader.number("I", what)
        if not 1 <= dims <= MAX_DIMS:
            raise reader.damaged(f"'{name}' has {dims} dimensions")
        shape = tuple(reversed([reader.number("Q", what) for _ in range(dims)]))
        kind, start = reader.number("I", what), reader.number("Q", what)
        if kind not in BLOCKS:
            known = ", ".join(block for block, *_ in BLOCKS.values())
            raise UserError(f"{reader.path}: '{name}' has the type {kind}; lowbit reads {known}")
        if 0 in shape or shape[-1] % BLOCKS[kind][1]:
            raise reader.damaged(f"'{name}' has the shape {shape}, which {BLOCKS[kind][0]} forbids")
        tensors.append(GgufTensor(name, kind, shape, start))
    return tensors


def _placed(
    reader: _Reader, tensors: list[GgufTensor], data: int, size: int, alignment: int
) -> dict[str, GgufTensor]:
    """The tensors with their places in the file; none may overlap or reach beyond the end."""
    placed: dict[str, GgufTensor] = {}
    end = data
    for tensor in sorted(tensors, key=lambda each: each.start):
        start = data + tensor.start
        if tensor.name in placed:
            raise reader.damaged(f"it has two tensors '{tensor.name}'")
        if start < end or tensor.start % alignment:
            raise reader.damaged(f"'{tensor.name}' overlaps another tensor or is not aligned")
        end = start + tensor.nbytes
        if end > size:
            raise reader.damaged(f"'{tensor.name}' reaches beyond the end of the file")
        placed[tensor.name] = GgufTensor(tensor.name, tensor.kind, tensor.shape, start)
    return placed
