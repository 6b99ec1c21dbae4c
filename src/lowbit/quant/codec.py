"""One encoder and one decoder for every format.

    encode: w -> scales as stored -> nearest levels for those scales -> packed codes
    decode: packed codes -> table look-up -> times scale, plus offset

Decoding looks up words of several codes. A byte of a 4-bit format holds two codes, so a table of
256 rows of two floats is viewed as 256 int64 and one `index_select` fetches both. That is about
three times as fast as gathering rows, and as fast as compiled code without its start-up cost.
Products are rounded once, in fp32, for every compute type: a bf16 decode is exactly the fp32 decode
cast to bf16.

Scales are stored as int16 bit patterns, so `module.to(dtype)` does not change them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lowbit.core.errors import RunError
from lowbit.core.spec import QuantSpec
from lowbit.quant.byte_counts import SCALE_SPEC
from lowbit.quant.formats import CASTS, FORMATS, Packing, is_cast, levels_of
from lowbit.quant.levels import Levels
from lowbit.quant.packing import pack, words
from lowbit.quant.scales import divide, fit, nearest, to_half

CAST_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# torch views a table's rows as numbers of the same width; the only 16-byte type is complex128.
_WORDS = {4: torch.int32, 8: torch.int64, 16: torch.complex128}


@dataclass(frozen=True)
class Packed:
    """A stored matrix. Every tensor is integer, so casts and optimisers leave it alone.

    codes    uint8 (rows, bytes): packed codes, or the raw bytes of a plain floating-point type
    scales   int16 (rows, groups): fp16 bit patterns; with +dq uint8 (1, rows x groups)
    offsets  int16 (fp16 bits of the minimum) or uint8 (zero-point), (rows, groups)
    dq_scales, dq_mean   int16 (1, blocks) and int32 (1,): the scales of the scales, and their mean
    """

    spec: QuantSpec
    shape: tuple[int, int]
    codes: Tensor
    scales: Tensor | None = None
    offsets: Tensor | None = None
    dq_scales: Tensor | None = None
    dq_mean: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors, by name."""
        named = {name: getattr(self, name) for name in TENSORS}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors().values())


_WEIGHTS_AT_A_TIME = 2**20
TENSORS = ("codes", "scales", "offsets", "dq_scales", "dq_mean")


def encode(weight: Float[Tensor, "rows columns"], spec: QuantSpec) -> Packed:
    """Store a matrix in the format of `spec`."""
    rows, columns = weight.shape
    if not bool(torch.isfinite(weight).all()):
        raise RunError("a weight matrix holds NaN or infinity and cannot be quantised")
    plain = weight.detach().to(CAST_TYPES.get(spec.format, torch.float32)).contiguous()
    if not bool(torch.isfinite(plain).all()):
        kind = str(plain.dtype).removeprefix("torch.")
        raise RunError(f"a weight matrix holds numbers too large for {kind}")
    if is_cast(spec):
        # A copy: the stored tensor must not change when the weight does.
        return Packed(spec, (rows, columns), plain.view(torch.uint8).view(rows, -1).clone())
    blocks = group_blocks(plain, spec)
    levels = torch.tensor(levels_of(spec), dtype=torch.float32, device=weight.device)
    stored = store_scales(blocks, levels, spec, (rows, columns))
    scale = scales_of(stored)
    offset = offsets_of(stored, scale)
    if spec.group == "tensor":
        blocks, scale = [plain[:, None]], scale.expand(rows, 1)
        offset = None if offset is None else offset.expand(rows, 1)
    # Some rows at a time, because choosing codes takes several times the memory of the weights.
    step = max(1, _WEIGHTS_AT_A_TIME // max(1, columns))
    packed = []
    for first in range(0, max(1, rows), step):
        part = slice(first, first + step)
        low = None if offset is None else offset[part]
        codes = _codes([block[part] for block in blocks], scale[part], low, levels)
        packed.append(pack(codes, FORMATS[spec.format].packing))
    return replace(stored, codes=torch.cat(packed))


def _codes(blocks: list[Tensor], scale: Tensor, offset: Tensor | None, levels: Tensor) -> Tensor:
    """The codes of the nearest levels for some rows and their stored scales."""
    codes, start = [], 0
    for block in blocks:
        part = slice(start, start + block.shape[1])
        shifted = block if offset is None else block - offset[:, part, None]
        codes.append(nearest(divide(shifted, scale[:, part]), levels).flatten(1))
        start += block.shape[1]
    return torch.cat(codes, 1).to(torch.uint8)


def group_blocks(weight: Tensor, spec: QuantSpec) -> list[Tensor]:
    """Cut a matrix into whole groups and, if they do not fill a row, a shorter last group."""
    rows, columns = weight.shape
    if spec.group == "tensor":
        return [weight.reshape(1, 1, -1)]
    size = columns if spec.group == "row" else min(int(spec.group), columns)
    whole = columns // size * size
    parts = [weight[:, :whole].reshape(rows, -1, size)]
    if whole < columns:
        parts.append(weight[:, None, whole:])
    return parts


def store_scales(
    blocks: list[Tensor], levels: Tensor, spec: QuantSpec, shape: tuple[int, int]
) -> Packed:
    """A matrix without codes: its scales and offsets, rounded to their stored form."""
    empty = torch.empty(0, 0, dtype=torch.uint8, device=levels.device)
    partial = Packed(spec, shape, empty)
    if spec.offset == "none":
        scale = torch.cat([fit(block, levels, spec.scale) for block in blocks], 1)
        return replace(partial, **_pack_scales(scale, spec))
    low = torch.cat([block.amin(-1) for block in blocks], 1)
    high = torch.cat([block.amax(-1) for block in blocks], 1)
    if spec.offset == "min":
        low = low.clamp(-65504.0, 65504.0).to(torch.float16)
        # The highest level is 1, except for `steps`.
        scale_tensors = _pack_scales((high - low.float()).clamp(min=0) / levels[-1], spec)
        return replace(partial, offsets=low.view(torch.int16), **scale_tensors)
    # A zero-point needs zero within the range, so that zero weights stay zero.
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale_tensors = _pack_scales(high - low, spec)
    scale, top = scales_of(replace(partial, **scale_tensors)), len(levels) - 1
    zero = (-low * top / torch.where(scale == 0, 1.0, scale)).round().clamp(0, top)
    return replace(partial, offsets=zero.to(torch.uint8), **scale_tensors)


def _pack_scales(scale: Tensor, spec: QuantSpec) -> dict[str, Any]:
    if not spec.dq:
        return {"scales": to_half(scale).view(torch.int16)}
    mean = to_half(scale).float().mean().reshape(1)
    nested = encode(to_half(scale).float().reshape(1, -1) - mean, SCALE_SPEC)
    assert nested.scales is not None
    return {
        "scales": nested.codes,
        "dq_scales": nested.scales,
        "dq_mean": mean.view(torch.int32),
    }


def scales_of(packed: Packed) -> Float[Tensor, "rows groups"]:
    """The stored scales in fp32; with +dq they are decoded first."""
    assert packed.scales is not None
    rows = 1 if packed.spec.group == "tensor" else packed.shape[0]
    if not packed.spec.dq:
        return packed.scales.view(torch.float16).float()
    assert packed.dq_scales is not None
    assert packed.dq_mean is not None
    shape = (1, packed.scales.shape[1])
    nested = Packed(SCALE_SPEC, shape, packed.scales, packed.dq_scales)
    # Rounding may push a tiny scale below zero, where it would flip its weights' signs.
    return (decode(nested) + packed.dq_mean.view(torch.float32)).clamp(min=0).view(rows, -1)


def offsets_of(packed: Packed, scale: Tensor) -> Tensor | None:
    if packed.offsets is None:
        return None
    if packed.spec.offset == "min":
        return packed.offsets.view(torch.float16).float()
    # A look-up, because a GPU divides by multiplying with the rounded reciprocal. Only the level
    # itself decodes a zero weight to exactly zero.
    levels = torch.tensor(levels_of(packed.spec), dtype=torch.float32, device=scale.device)
    return -levels[packed.offsets.long()] * scale


class Scratch:
    """A buffer to decode into. Every matrix reuses it, so it stays in the processor's cache.

    Each decode overwrites the one before it.
    """

    def __init__(self) -> None:
        self._buffers: dict[torch.dtype, Tensor] = {}

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor of `count` numbers."""
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.numel() < count:
            buffer = self._buffers[dtype] = torch.empty(count, dtype=dtype)
        return buffer[:count]


def decode(
    packed: Packed,
    dtype: torch.dtype = torch.float32,
    rows: Tensor | None = None,
    scratch: Scratch | None = None,
) -> Float[Tensor, "rows columns"]:
    """Decode a matrix, or only its `rows` (an embedding looks up few).

    Do not write to the result: a plain type decoded to itself is a view of the stored tensor, and
    a matrix in `scratch` is valid until the next decode there.
    """
    columns = packed.shape[1]
    codes = packed.codes if rows is None else packed.codes[rows]
    if packed.spec.format in CASTS:
        return codes.view(CAST_TYPES[packed.spec.format]).to(dtype)
    weight = _look_up(codes, packed.spec, columns, scratch)
    scale = scales_of(packed)
    offset = offsets_of(packed, scale)
    if rows is not None and packed.spec.group != "tensor":
        scale, offset = scale[rows], None if offset is None else offset[rows]
    for part, block in _group_views(weight, packed.spec):
        block.mul_(scale[:, part, None])
        if offset is not None:
            block.add_(offset[:, part, None])
    return weight.to(dtype)


def _look_up(
    codes: Tensor, spec: QuantSpec, columns: int, scratch: Scratch | None = None
) -> Tensor:
    """The levels of packed codes, unscaled, in an fp32 matrix that may be written to."""
    packing = FORMATS[spec.format].packing
    rows, padded = len(codes), codes.shape[1] // packing.bytes * packing.codes
    table = _table(levels_of(spec), packing, codes.device)
    index = words(codes, packing).view(-1)
    if scratch is None or codes.device.type != "cpu":
        values = table.index_select(0, index)
    else:
        values = torch.index_select(table, 0, index, out=scratch.take(len(index), table.dtype))
    if packing.word_codes == 5:
        # No machine word has the size of five floats; five int8 padded to eight bytes fit in one.
        digits = values.view(torch.int8).view(rows, padded // 5, 8)[..., :5]
        return digits.reshape(rows, padded)[:, :columns].to(torch.float32)
    return values.view(torch.float32).view(rows, padded)[:, :columns].contiguous()


def _group_views(weight: Tensor, spec: QuantSpec) -> list[tuple[slice, Tensor]]:
    """Writable views (rows x groups x size) of the whole groups and of the short last one."""
    columns = weight.shape[1]
    if spec.group == "tensor":
        return [(slice(0, 1), weight.view(1, 1, -1))]
    size = columns if spec.group == "row" else min(int(spec.group), columns)
    count = columns // size
    whole = weight[:, : count * size].unflatten(1, (count, size))
    views = [(slice(0, count), whole)]
    if count * size < columns:
        views.append((slice(count, count + 1), weight[:, None, count * size :]))
    return views


@lru_cache(maxsize=64)
def _table(values: Levels, packing: Packing, device: torch.device) -> Tensor:
    """Row i holds the levels of the codes in word i, viewed as one machine word if possible."""
    levels = torch.tensor(values, dtype=torch.float32)
    # A format may use fewer levels than its bits allow; the spare codes are never written.
    levels = torch.cat([levels, levels.new_zeros(packing.radix - len(levels))])
    digits = [tuple(reversed(d)) for d in product(range(packing.radix), repeat=packing.word_codes)]
    rows = levels[torch.tensor(digits)]
    if packing.word_codes == 5:
        padded = torch.zeros(len(rows), 8, dtype=torch.int8)
        padded[:, :5] = rows.to(torch.int8)
        rows = padded
    # Apple's GPU has no complex128, but gathers rows fast enough.
    word = None if device.type == "mps" else _WORDS[rows.shape[1] * rows.element_size()]
    return (rows if word is None else rows.view(word).view(-1)).to(device)
