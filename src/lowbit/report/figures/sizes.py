"""Stored bytes by role, one bar per plan.

Adapters are stored in fp32 and embeddings often in 8 bits. At low precision, most bytes may thus be
outside the matrices in the plan's format; this figure shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes

from lowbit.report.figures import bars
from lowbit.study.cells import Cell, Setting

ROLES = ("attention", "ffn", "embedding", "head", "other", "adapters")
STYLE = bars.BarStyle(
    axis="stored bytes",
    parts=ROLES,
    fills=("#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#dedede", "#1a1a1a"),
    hatches=("", "///", "", "...", "", ""),
)


@dataclass(frozen=True)
class Bar:
    """One plan's bytes by role, in the order of ROLES (means over seeds)."""

    plan: str
    parts: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.parts)


def data(setting: Setting) -> tuple[Bar, ...]:
    """Bytes of sites by role; `other` is norms and biases, `adapters` the trained parameters."""
    return tuple(Bar(cell.plan, _parts(cell)) for cell in setting.cells)


def _parts(cell: Cell) -> tuple[float, ...]:
    totals = dict.fromkeys(ROLES, 0)
    for record in cell.records:
        for site in record.sites:
            totals[site.role] += site.bytes
        totals["other"] += record.bytes.other
        totals["adapters"] += record.bytes.adapters
    return tuple(totals[role] / len(cell.records) for role in ROLES)


def draw(ax: Axes, data: tuple[Bar, ...]) -> None:
    bars.draw(ax, data, STYLE)
