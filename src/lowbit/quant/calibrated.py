"""Rounds a matrix with its inputs in mind, so that the layer's output changes least.

Nearest rounding minimises the error of each weight. What matters is the error of the output,
    tr (W - Q) H (W - Q)',  H = mean of x x' over inputs x,
in which the errors of two weights can cancel. GPTQ (Frantar et al. 2023), which equals LDLQ (Chee
et al. 2023), rounds the columns one after another and adds what each one's error costs to the
columns that are still to come. It works with any levels: a column is rounded to the nearest level
of its group's scale.

The columns that come later have moved by then, so a scale from the original weights may clip them.
Each group's scale is therefore chosen when its turn comes, by the error that its columns will leave
(not with `+dq`, whose scales are stored together). Within a group the columns with the largest
inputs come first. Per row, the result is compared with nearest rounding and the better one is kept,
so a matrix is never worse than that on its own objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lowbit.core.errors import UserError
from lowbit.core.spec import QuantSpec
from lowbit.quant.codec import (
    Packed,
    decode,
    encode,
    offsets_of,
    scales_of,
    store_scales,
)
from lowbit.quant.formats import FORMATS, is_cast, levels_of, spell
from lowbit.quant.input_metric import InputMetric, Moment, group_size
from lowbit.quant.packing import pack
from lowbit.quant.scales import SMALLEST, divide, nearest, to_half

FACTORS = tuple(1.05 - 0.05 * i for i in range(11))
"""Factors of a group's scale that are tried."""
FACTORS_OF_MEAN = tuple(1.7 - 0.1 * i for i in range(10))
"""The same for scales that are the mean absolute weight, which is below the best one."""
_BLOCK = 128


@dataclass(frozen=True)
class _Scales:
    """The stored scale and offset of one group, for every row: as bits, and decoded."""

    scale: Tensor
    offset: Tensor
    scale_bits: Tensor
    offset_bits: Tensor | None


def encode_calibrated(
    weight: Float[Tensor, "rows columns"], spec: QuantSpec, moment: Moment
) -> Packed:
    """Store a matrix so that its output on inputs with this second moment changes least.

    Args:
        weight: The matrix, (out, in).
        spec: A format with levels.
        moment: The mean of x x' over the layer's inputs x.

    Returns:
        The matrix in the same format and bytes as `encode` gives, with other codes and scales.

    Raises:
        UserError: The format has no levels.
        RunError: The moment is not finite or not that of any inputs.
    """
    levels_or_error(spec)
    return encode_rows(weight, spec, InputMetric.of(moment, spec))


def encode_rows(
    weight: Float[Tensor, "rows columns"], spec: QuantSpec, inputs: InputMetric
) -> Packed:
    """The same for some rows of a matrix, whose inputs are made ready once."""
    plain = encode(weight, spec)
    weight = weight.detach().float()
    return _better_rows(weight, inputs.moment, plain, _with_feedback(weight, spec, inputs, plain))


def levels_or_error(spec: QuantSpec) -> None:
    """Refuse a format without levels."""
    if is_cast(spec):
        raise UserError(f"{spell(spec)} has no levels: calibrated rounding has nothing to choose")


def rows_are_apart(spec: QuantSpec) -> bool:
    """Whether a matrix can be stored some rows at a time: no scale is shared between rows."""
    return not spec.dq and spec.group != "tensor"


def join_rows(parts: Sequence[Packed]) -> Packed:
    """Consecutive rows of one matrix as one; only if `rows_are_apart`."""
    names = parts[0].tensors()
    joined = {name: torch.cat([part.tensors()[name] for part in parts]) for name in names}
    rows = sum(part.shape[0] for part in parts)
    return Packed(parts[0].spec, (rows, parts[0].shape[1]), **joined)


def output_error(
    weight: Float[Tensor, "rows columns"], packed: Packed, moment: Moment
) -> Float[Tensor, " rows"]:
    """The mean squared error of each row's output."""
    error = weight.float() - decode(packed)
    return ((error @ moment.float()) * error).sum(1)


def _with_feedback(weight: Tensor, spec: QuantSpec, inputs: InputMetric, plain: Packed) -> Packed:
    """GPTQ: round column after column, and add each error's effect to the later columns."""
    rows, columns = weight.shape
    size, order, factor = group_size(columns, spec), inputs.order, inputs.factor
    left = weight[:, order].clone()
    levels = torch.tensor(levels_of(spec), device=weight.device)
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=weight.device)
    fixed = spec.dq or spec.group == "tensor" or spec.offset == "zp"
    chosen: list[_Scales] = []
    for number, start in enumerate(range(0, columns, size)):
        end = min(start + size, columns)
        importance = factor.diagonal()[start:end] ** -2
        scales = (
            _scales_at(plain, number)
            if fixed
            else _search(left[:, start:end], spec, levels, importance)
        )
        chosen.append(scales)
        for low in range(start, end, _BLOCK):
            high = min(low + _BLOCK, end)
            codes[:, low:high] = _round_block(left, factor, low, high, scales, levels)
    unordered = torch.empty_like(codes)
    unordered[:, order] = codes
    packed = pack(unordered, FORMATS[spec.format].packing)
    if fixed:
        return replace(plain, codes=packed)
    offsets = [each.offset_bits for each in chosen if each.offset_bits is not None]
    return Packed(
        spec,
        (rows, columns),
        packed,
        torch.cat([each.scale_bits for each in chosen], 1),
        torch.cat(offsets, 1) if offsets else None,
    )


def _round_block(
    left: Tensor, factor: Tensor, low: int, high: int, scales: _Scales, levels: Tensor
) -> Tensor:
    """Round some columns in place and move the later ones; the codes of these columns."""
    block, local = left[:, low:high], factor[low:high, low:high]
    errors, codes = torch.empty_like(block), torch.empty_like(block, dtype=torch.uint8)
    middles = (levels[1:] + levels[:-1]) / 2
    divisor = torch.where(scales.scale == 0, 1.0, scales.scale)
    for i in range(high - low):
        column = block[:, i]
        index = torch.bucketize((column - scales.offset) / divisor, middles, out_int32=True)
        errors[:, i] = (column - levels[index] * scales.scale - scales.offset) / local[i, i]
        codes[:, i] = index
        block[:, i + 1 :].addr_(errors[:, i], local[i, i + 1 :], alpha=-1)
    left[:, high:].addmm_(errors, factor[low:high, high:], alpha=-1)
    return codes


def _search(group: Tensor, spec: QuantSpec, levels: Tensor, importance: Tensor) -> _Scales:
    """The scale, among some around the format's own, whose rounding leaves the least error."""
    rows, size = group.shape
    own = store_scales([group[:, None]], levels, replace(spec, dq=False), (rows, size))
    best, least = _scales_at(own, 0), torch.full((rows,), torch.inf, device=group.device)
    base = best
    for factor in FACTORS_OF_MEAN if spec.scale == "absmean" else FACTORS:
        trial = _scaled(base, factor)
        scale, offset = trial.scale[:, None], trial.offset[:, None]
        index = nearest(divide((group - offset)[:, None], scale), levels)[:, 0]
        error = ((group - levels[index] * scale - offset).square() * importance).sum(1)
        better = error < least
        least = torch.where(better, error, least)
        best = _merged(better, trial, best)
    return best


def _scaled(scales: _Scales, factor: float) -> _Scales:
    """The scale times a factor; a minimum moves so that the middle of the range stays."""
    if scales.offset_bits is None:
        bits = to_half(scales.scale * factor)
        return _Scales(bits.float(), scales.offset, bits.view(torch.int16)[:, None], None)
    low = scales.offset + scales.scale * (1 - factor) / 2
    bits = to_half((scales.scale * factor).clamp(min=SMALLEST))
    low_bits = low.clamp(-65504.0, 65504.0).to(torch.float16)
    return _Scales(
        bits.float(), low_bits.float(), bits.view(torch.int16)[:, None],
        low_bits.view(torch.int16)[:, None],
    )  # fmt: skip


def _merged(choose: Tensor, new: _Scales, old: _Scales) -> _Scales:
    """Row by row, the new scales where `choose` is true."""
    bits = None
    if new.offset_bits is not None and old.offset_bits is not None:
        bits = torch.where(choose[:, None], new.offset_bits, old.offset_bits)
    return _Scales(
        torch.where(choose, new.scale, old.scale),
        torch.where(choose, new.offset, old.offset),
        torch.where(choose[:, None], new.scale_bits, old.scale_bits),
        bits,
    )


def _scales_at(packed: Packed, number: int) -> _Scales:
    """The scales of the group with this number."""
    rows = packed.shape[0]
    scale = scales_of(packed)
    offset = offsets_of(packed, scale)
    column = scale[:, number].expand(rows)
    low = torch.zeros_like(column) if offset is None else offset[:, number].expand(rows)
    assert packed.scales is not None
    bits = packed.scales if packed.spec.dq else packed.scales[:, number : number + 1]
    low_bits = None if packed.offsets is None else packed.offsets[:, number : number + 1]
    return _Scales(column, low, bits, low_bits)


def _better_rows(weight: Tensor, moment: Moment, plain: Packed, rounded: Packed) -> Packed:
    """Row by row, the one with the smaller output error."""
    keep = output_error(weight, plain, moment) <= output_error(weight, rounded, moment)
    if not bool(keep.any()):
        return rounded
    merged = {}
    for name, tensor in rounded.tensors().items():
        old = getattr(plain, name)
        per_row = name == "codes" or len(tensor) == len(keep)
        merged[name] = torch.where(keep[:, None], old, tensor) if per_row else tensor
    return Packed(plain.spec, plain.shape, **merged)
