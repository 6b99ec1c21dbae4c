"""Convert codes to bytes and back.

Each row is packed on its own and padded at its end. A unit of codes is one number in the format's
radix, with little-endian bytes. Two 4-bit codes take one byte, eight 3-bit codes three bytes, and
five ternary codes one byte (3^5 = 243). Decoding does not split units into codes. It cuts them into
words and looks up all codes of a word at once (`codec.decode`).
"""

from __future__ import annotations

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from lowbit.quant.formats import Packing


def pack(codes: UInt8[Tensor, "rows columns"], packing: Packing) -> UInt8[Tensor, "rows bytes"]:
    """Rows of codes to rows of bytes."""
    rows, columns = codes.shape
    units = -(-columns // packing.codes)
    padded = codes.new_zeros(rows, units * packing.codes)
    padded[:, :columns] = codes
    digits = padded.view(rows, units, packing.codes)
    number = torch.zeros(rows, units, dtype=torch.int64, device=codes.device)
    for digit in reversed(range(packing.codes)):
        number = number * packing.radix + digits[..., digit]
    if packing.bytes == 1:
        return number.to(torch.uint8)
    shifts = 8 * torch.arange(packing.bytes, device=codes.device)
    return ((number[..., None] >> shifts) & 255).to(torch.uint8).flatten(1)


def words(packed: UInt8[Tensor, "rows bytes"], packing: Packing) -> Int[Tensor, "rows words"]:
    """The table indices of every word in a packed row."""
    if packing.words == 1:
        return packed.to(torch.int32)
    rows, units = packed.shape[0], packed.shape[1] // packing.bytes
    parts = packed.view(rows, units, packing.bytes).to(
        torch.int32 if packing.bytes <= 3 else torch.int64
    )
    number = parts[..., 0].clone()
    for index in range(1, packing.bytes):
        number |= parts[..., index] << (8 * index)
    mask = (1 << packing.word_bits) - 1
    cut = [(number >> (packing.word_bits * w)) & mask for w in range(packing.words)]
    return torch.stack(cut, dim=-1).view(rows, units * packing.words).to(torch.int32)


def unpack(
    packed: UInt8[Tensor, "rows bytes"], columns: int, packing: Packing
) -> UInt8[Tensor, "rows columns"]:
    """Rows of bytes to rows of codes: the inverse of `pack`."""
    index = words(packed, packing)
    digits = [
        (index // packing.radix**place) % packing.radix for place in range(packing.word_codes)
    ]
    return torch.stack(digits, dim=-1).flatten(1)[:, :columns].to(torch.uint8)
