"""Formats compared by bytes and by their error on Gaussian weights, without any model. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowbit.core.errors import UserError
from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.formats import is_cast, levels_of, parse
from lowbit.sensitivity.theory.distortion import distortion

COLUMNS = 1024
"""Columns of the matrix that `@row` formats are compared on."""

COMPARED = (
    "int8@64", "int6@64", "int5@64", "int4@32", "int4@64", "int4@128", "int4@64+dq",
    "int4@64:min", "nf4@32", "nf4@64", "nf4@64+dq", "nf4@128", "nf3@32", "nf3@64", "int3@32",
    "int3@64", "int2@32", "int2@64", "ternary@32", "ternary@64",
)  # fmt: skip
"""The formats that `lowbit formats` shows by default."""


@dataclass(frozen=True)
class FormatFacts:
    """A format's bits per weight with its scales, its number of levels, and its relative error.

    `error`: mean squared error over the variance of the weights. `over_optimum`: that error over
    the rate-distortion limit 4^-bits, which no format of these bits can go below.
    """

    format: str
    bits: float
    levels: int
    error: float

    @property
    def over_optimum(self) -> float:
        return self.error * 4**self.bits


def compare_formats(
    formats: Sequence[str] = COMPARED, columns: int = COLUMNS
) -> tuple[FormatFacts, ...]:
    """The facts of each format, the most bits first.

    Args:
        formats: Formats like `nf4@64`.
        columns: Columns of the matrix; only `@row` formats depend on it.

    Returns:
        One entry for each format. The error is for Gaussian weights, by integration.

    Raises:
        UserError: A format is unknown, or has no levels (bf16, fp16).

    Example:
        >>> from lowbit.sensitivity.compare_formats import compare_formats
        >>> [facts.format for facts in compare_formats(["int4@64", "nf4@64"])]
        ['int4@64', 'nf4@64']
    """
    facts = [_facts(text, columns) for text in formats]
    return tuple(sorted(facts, key=lambda each: (-each.bits, each.error)))


def _facts(text: str, columns: int) -> FormatFacts:
    spec = parse(text)
    if is_cast(spec):
        raise UserError(f"{text} has no levels to compare: it rounds each weight relatively")
    shape = (columns, columns)
    bits = 8 * matrix_bytes(spec, shape).total / (columns * columns)
    size = {"row": columns, "tensor": columns * columns}.get(str(spec.group), spec.group)
    return FormatFacts(text, bits, len(levels_of(spec)), distortion(spec, int(size)))
