"""Finds the low-bit grid that weights already lie on.

A checkpoint that was decoded from a quantised file looks like any other in 16 bits, but each group
of its weights has few distinct values. The format of that grid keeps them; every other format of as
few bits rounds them a second time.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import FORMATS, parse

SIZES = (32, 64, 128, 256)
ROWS = 64
"""Rows that are looked at."""
TOLERANCE = 0.01
"""The largest error of a grid, as a share of the weights: bf16 alone makes 0.002."""
_SHARE = 0.99


def find_grid(weight: Float[Tensor, "rows columns"]) -> str | None:
    """The smallest format that holds these weights almost exactly, or None if none below 6 bits."""
    rows = weight[:: -(-len(weight) // ROWS)].float()
    formats = [text for size in SIZES for text in _candidates(rows, size)]
    fitting = [text for text in formats if _relative_error(rows, text) < TOLERANCE]
    shape = (len(rows), rows.shape[1])
    return min(fitting, key=lambda text: matrix_bytes(parse(text), shape).total, default=None)


def _candidates(rows: Tensor, size: int) -> list[str]:
    """Formats with as many levels as groups of this size have distinct values."""
    if rows.shape[1] % size:
        return []
    groups = rows.reshape(-1, size).sort(-1).values
    distinct = 1 + (groups.diff(dim=-1) > 0).sum(-1)
    count = int(distinct.float().quantile(_SHARE, interpolation="higher"))
    bits = max(2, (count - 1).bit_length())
    # Half of a group's size is far below what weights on no grid have.
    if 2**bits > size // 2 or bits > 5:
        return []
    rules = ["", ":full", ":min", ":steps"]
    names = [f"int{bits}@{size}{rule}" for rule in rules]
    return names + ([f"nf{bits}@{size}"] if f"nf{bits}" in FORMATS else [])


def _relative_error(rows: Tensor, text: str) -> float:
    difference = decode(encode(rows, parse(text))) - rows
    return float(difference.norm() / rows.norm().clamp(min=1e-30))
