"""The levels of integer and NormalFloat formats, as sorted tuples of numbers. No torch."""

from __future__ import annotations

from statistics import NormalDist

Levels = tuple[float, ...]


def int_levels(bits: int, variant: str) -> Levels:
    """Evenly spaced levels, scaled so that the largest absolute value is 1.

    `sym` leaves out the lowest code, so the levels are symmetric around zero. `full` includes it.
    `even` has 2^bits symmetric levels without zero. `unit` has levels from 0 to 1, for formats with
    an offset. `steps` has k / 2^bits instead: with a minimum, its scale is 2^bits times the step,
    which fp16 holds exactly whenever it holds the step, so a GGUF file's blocks keep their numbers.
    """
    half, count = 2 ** (bits - 1), 2**bits
    if variant == "sym":
        return tuple(k / (half - 1) for k in range(-half + 1, half))
    if variant == "full":
        return tuple(k / half for k in range(-half, half))
    if variant == "even":
        return tuple((2 * k - count + 1) / (count - 1) for k in range(count))
    if variant == "steps":
        return tuple(k / count for k in range(count))
    return tuple(k / (count - 1) for k in range(count))


def normal_levels(bits: int) -> Levels:
    """NormalFloat: quantiles of N(0, 1) with an exact zero, one more level above it than below.

    The outermost probability is the mean of the half-cells that a symmetric and an asymmetric code
    would leave out (Dettmers et al. 2023). With 4 bits this gives the published nf4 levels.
    """
    outer = 1 - (1 / (2 * 2**bits) + 1 / (2 * (2**bits - 1))) / 2
    above, below = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    quantile = NormalDist().inv_cdf

    def side(count: int) -> list[float]:
        return [quantile(outer + (0.5 - outer) * i / count) for i in range(count)]

    top = quantile(outer)
    return (*(-q / top for q in side(below)), 0.0, *(q / top for q in reversed(side(above))))


# The published table (QLoRA, as in bitsandbytes). `normal_levels(4)` differs by less than 1e-6.
NF4: Levels = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def signed(magnitudes: Levels) -> Levels:
    top = max(magnitudes)
    return tuple(sorted({s * m / top for m in magnitudes for s in (-1, 1)}))
