"""How far a stored weight can lie from the weight: a worst case, derived from the levels.

A weight w of a group with stored scale s is w/s in units of the levels. Inside [-1, 1] the nearest
level is at most `gap` away; outside it the outermost level is, plus the distance to the end. With
R the group's reach (its largest weight in size, or its range where there is an offset),

    |decoded - w| <= gap s + max(0, R - s)

and s differs from the scale that was fitted only by how scales are stored: fp16, or with `+dq` one
byte against blocks of 256, which is the same bound applied once more to the scales themselves.
A bound on every single weight is loose on the mean. No torch here.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from lowbit.core.spec import QuantSpec
from lowbit.quant.byte_counts import SCALE_SPEC
from lowbit.quant.formats import CASTS, is_cast, levels_of

HALF = 2.0**-11
"""fp16 keeps eleven bits: rounding moves a number by at most this share of it,"""
HALF_STEP = 2.0**-24
"""or by this much where the share is less (a scale is lifted to 2^-24, never rounded to zero),"""
HALF_TOP = 65504.0
"""or down to the largest fp16."""
SINGLE = 2.0**-21
"""The fp32 arithmetic of encoding and decoding: eight roundings of 2^-24 at most."""


@cache
def gap(spec: QuantSpec) -> float:
    """The farthest that a number between -1 and 1 (offsets: 0 and 1) lies from its nearest level.

    A whole step for `:full`, whose topmost level is one step short of 1, else half the widest step.
    """
    levels = levels_of(spec)
    low = 0.0 if spec.offset != "none" else -1.0
    between = [(b - a) / 2 for a, b in pairwise(levels)]
    return max(*between, levels[0] - low, 1.0 - levels[-1])


def half_bound(size: float) -> float:
    """The farthest that storing a number of this size as fp16 moves it."""
    return max(HALF * size, HALF_STEP, size - HALF_TOP) if size > 0 else 0.0


def scale_bound(spec: QuantSpec, scale: float, spread: float = 0.0) -> float:
    """The farthest that a stored scale lies from the fitted `scale`.

    `spread`, for `+dq`: the largest distance between the fp16 scales of the same block of 256 and
    the mean of all scales of the matrix.
    """
    rounding = half_bound(scale)
    if spec.dq:
        rounding += error_bound(SCALE_SPEC, -spread, spread, spread) + SINGLE * (scale + spread)
    return rounding


def error_bound(
    spec: QuantSpec, low: float, high: float, scale: float, spread: float = 0.0
) -> float:
    """The farthest that a decoded weight lies from a weight of a group between `low` and `high`.

    `scale` is what the scale rule fitted: for absmax the largest weight in size, with an offset
    the range. `spread` as for `scale_bound`.
    """
    largest = max(abs(low), abs(high))
    if is_cast(spec):
        return max(2.0 ** -CASTS[spec.format].precision * largest, HALF_STEP / 2)
    # A minimum is stored as fp16, and the range is counted from there.
    offset = half_bound(largest) if spec.offset == "min" else 0.0
    # A zero-point needs zero within the range.
    range_ = max(high, 0.0) - min(low, 0.0) if spec.offset == "zp" else high - low
    reach = (largest if spec.offset == "none" else range_) + offset
    rounding = offset + scale_bound(spec, scale + offset, spread)
    # The bound is convex in the stored scale, so it is largest where that is.
    ends = (max(0.0, scale - rounding), scale + rounding)
    worst = max(gap(spec) * stored + max(0.0, reach - stored) for stored in ends)
    return worst + offset + SINGLE * max(largest, scale + rounding)
