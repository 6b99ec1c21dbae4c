"""GGUF's tensor types: as packed matrices of our formats, or decoded to numbers.

Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 store blocks of 32 integers with an fp16 scale, the `_1` types with
an fp16 minimum too. They are formats of ours: the integers become codes, and our scale is theirs
times a power of two, which fp16 holds exactly unless it overflows. So a matrix is copied, not
quantised again, and decodes to the same numbers bit for bit. K- and i-quants have scales of scales
or codebooks that we have no format for; transformers decodes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowbit.core.errors import RunError
from lowbit.models.gguf_file import BLOCKS, GgufFile, GgufTensor
from lowbit.quant.codec import Packed, decode
from lowbit.quant.formats import FORMATS, parse
from lowbit.quant.packing import pack

CASTS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _BlockType:
    """Our format, its scale over the file's, and the bits above the fourth (one, or none)."""

    format: str
    factor: int
    fifth_bit: bool = False
    minimum: bool = False


BLOCK_TYPES = {
    "Q4_0": _BlockType("int4@32:full", 8),
    "Q4_1": _BlockType("int4@32:steps", 16, minimum=True),
    "Q5_0": _BlockType("int5@32:full", 16, fifth_bit=True),
    "Q5_1": _BlockType("int5@32:steps", 32, fifth_bit=True, minimum=True),
    "Q8_0": _BlockType("int8@32:full", 128),
}
FORMAT_OF = {
    **{name: block.format for name, block in BLOCK_TYPES.items()},
    "F32": "fp32", "F16": "fp16", "BF16": "bf16",
}  # fmt: skip
"""The format that holds a type bit for bit. The other types are decoded to 16 bits."""
NUMBERS_AT_A_TIME = 2**20
"""Decoding takes several times the memory of what it gives, so large tensors are done in parts."""


def packed(file: GgufFile, tensor: GgufTensor) -> Packed | None:
    """A matrix in our format with the same numbers; None where none holds them exactly."""
    block_type = BLOCK_TYPES.get(tensor.type_name)
    if block_type is None or len(tensor.shape) != 2:
        return None
    rows, columns = tensor.shape
    blocks = file.read_bytes(tensor).reshape(rows * columns // 32, -1)
    scales = _half(blocks, 0).astype(np.float32) * block_type.factor
    with np.errstate(over="ignore"):
        stored = scales.astype(np.float16)
    _require_finite(file, tensor, scales)
    if not np.array_equal(stored.astype(np.float32), scales):
        return None
    offsets = None
    if block_type.minimum:
        offsets = _half(blocks, 2)
        _require_finite(file, tensor, offsets)
    spec = parse(block_type.format)
    codes = torch.from_numpy(_codes(blocks, block_type).reshape(rows, columns))
    return Packed(
        spec,
        (rows, columns),
        pack(codes, FORMATS[spec.format].packing),
        _bit_patterns(stored, rows),
        None if offsets is None else _bit_patterns(offsets, rows),
    )


def numbers(file: GgufFile, tensor: GgufTensor) -> Tensor:
    """A tensor's numbers: in its own type if that is a plain one, else in fp32."""
    dtype = CASTS.get(tensor.type_name)
    if dtype is not None:
        return torch.from_numpy(file.read_bytes(tensor)).view(dtype).view(tensor.shape)
    _, size, width = BLOCKS[tensor.kind]
    count, step = tensor.nbytes // width, NUMBERS_AT_A_TIME // size
    values = torch.empty(count, size)
    for first in range(0, count, step):
        shape = (min(step, count - first), size)
        part = replace(tensor, shape=shape, start=tensor.start + first * width)
        values[first : first + shape[0]] = _decoded(file, part)
    return values.view(tensor.shape)


def _decoded(file: GgufFile, part: GgufTensor) -> Tensor:
    """Some blocks of a tensor, (blocks, numbers of each)."""
    if part.type_name in BLOCK_TYPES:
        return _decoded_blocks(file, part)
    # Imported here because it takes long, and most files have none of these types.
    from transformers.integrations.gguf.dequant import dequantize

    data = torch.from_numpy(file.read_bytes(part))
    values = dequantize(data, part.kind, torch.float32).view(part.shape)
    _require_finite(file, part, values.numpy())
    return values


def _decoded_blocks(file: GgufFile, part: GgufTensor) -> Tensor:
    matrix = packed(file, part)
    if matrix is not None:
        return decode(matrix)
    # A scale so large that our fp16 scale would overflow: decoded by the file's own rule.
    block_type = BLOCK_TYPES[part.type_name]
    blocks = file.read_bytes(part).reshape(part.shape[0], -1)
    zero = 0 if block_type.minimum else block_type.factor
    values = _half(blocks, 0).astype(np.float32)[:, None] * (
        _codes(blocks, block_type).astype(np.float32) - zero
    )
    if block_type.minimum:
        values += _half(blocks, 2).astype(np.float32)[:, None]
    return torch.from_numpy(values)


def _codes(blocks: NDArray[np.uint8], block_type: _BlockType) -> NDArray[np.uint8]:
    """The codes of each block, counted from the lowest level."""
    head = 4 if block_type.minimum else 2
    if block_type.format.startswith("int8"):
        # Signed bytes from -128 become codes from 0.
        return blocks[:, head:] ^ np.uint8(128)
    nibbles = blocks[:, -16:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=1)
    if block_type.fifth_bit:
        bits = np.unpackbits(blocks[:, head : head + 4], axis=1, bitorder="little")
        codes |= bits << np.uint8(4)
    return codes


def _half(blocks: NDArray[np.uint8], start: int) -> NDArray[np.float16]:
    """One fp16 number of each block."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2")[:, 0]


def _bit_patterns(halves: NDArray[np.float16], rows: int) -> Tensor:
    return torch.from_numpy(halves.view(np.int16).reshape(rows, -1).copy())


def _require_finite(
    file: GgufFile, tensor: GgufTensor, values: NDArray[np.float16] | NDArray[np.float32]
) -> None:
    if not np.isfinite(values).all():
        raise RunError(f"{file.path}: '{tensor.name}' holds NaN or infinity")
