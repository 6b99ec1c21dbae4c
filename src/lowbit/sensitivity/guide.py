"""Which precision a rank and so much data ask for, from a model's own measurements. No torch.

An adapter of p free numbers costs p / 2N nats to estimate from N tokens; damage far below that is
not seen. So the fewest bits are enough whose damage, after what the rank takes back, is at most a
share of it: rule (17) with measured damage in the place of a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.table import SensitivityTable
from lowbit.sensitivity.theory.damage import adapter_parameters


@dataclass(frozen=True)
class Advice:
    """A format (None: 16 bits), the damage expected to be left, and what estimation costs."""

    rank: int
    size: int
    format: str | None
    damage: float
    statistical: float


def advice(
    table: SensitivityTable, rank: int, size: int, share: float, formats: Sequence[str]
) -> Advice:
    """The fewest bits that are enough at this rank with so much data."""
    shapes = [site.shape for site in table.sites if site.reach is not None]
    statistical = adapter_parameters(shapes, rank) / (2 * size)
    for text in sorted(formats, key=lambda f: bits_of(parse(f))):
        damage = expected(table, text, rank)
        if damage <= share * statistical:
            return Advice(rank, size, text, damage, statistical)
    return Advice(rank, size, None, 0.0, statistical)


def expected(table: SensitivityTable, text: str, rank: int) -> float:
    """Nats that a format is expected to cost after training at a rank, all blocks in it."""
    return sum(
        (site.damages[text].anchored or 0.0) * site.reach.left(text, rank)
        for site in table.sites
        if site.reach is not None
    )
