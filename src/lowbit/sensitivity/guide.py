"""The fewest bits that are enough for a rank and a data size, from a model's own measurements.

An adapter with p free parameters costs p / 2N nats to estimate from N tokens. Damage far below that
has no visible effect. So the recommendation is the fewest bits whose damage, after what the rank
recovers, is at most a share of the estimation cost: rule (17) with measured damage. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.table import SensitivityTable
from lowbit.sensitivity.theory.damage import adapter_parameters


@dataclass(frozen=True)
class Advice:
    """The recommended format (None: 16 bits), its damage after training, the estimation cost."""

    rank: int
    size: int
    format: str | None
    damage: float
    statistical: float


@dataclass(frozen=True)
class Guide:
    """A recommendation for each rank (row) and data size (column), and what was measured."""

    table: SensitivityTable
    ranks: tuple[int, ...]
    sizes: tuple[int, ...]
    share: float
    rows: tuple[tuple[Advice, ...], ...]


def advice(
    table: SensitivityTable, rank: int, size: int, share: float, formats: Sequence[str]
) -> Advice:
    """The fewest bits that are enough at this rank with `size` tokens or sentences of data."""
    shapes = [site.shape for site in table.sites if site.reach is not None]
    statistical = adapter_parameters(shapes, rank) / (2 * size)
    for text in sorted(formats, key=lambda f: bits_of(parse(f))):
        damage = damage_after_training(table, text, rank)
        if damage <= share * statistical:
            return Advice(rank, size, text, damage, statistical)
    return Advice(rank, size, None, 0.0, statistical)


def damage_after_training(table: SensitivityTable, text: str, rank: int) -> float:
    """Nats that remain after training at a rank, with all block matrices in one format."""
    return sum(
        (site.damages[text].anchored or 0.0) * site.reach.remaining_share(text, rank)
        for site in table.sites
        if site.reach is not None
    )
