"""Where the bytes are: one bar a plan, stacked by role.

Adapters are kept in fp32 and embeddings often in 8 bits, so at low precision most of the bytes may
lie where the plan's format does not reach; this figure shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lowbit.cells import Cell, Setting
from lowbit.figures.look import INK, megabytes, plain

ROLES = ("attention", "ffn", "embedding", "head", "other", "adapters")
_FILLS = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#dedede", "#1a1a1a")
_HATCHES = ("", "///", "", "...", "", "")


@dataclass(frozen=True)
class Bar:
    """One plan's bytes by role, in the order of ROLES (means over seeds)."""

    plan: str
    parts: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.parts)


def data(setting: Setting) -> tuple[Bar, ...]:
    """Sites count for their role; `other` is norms and biases; adapters are the trained parts."""
    return tuple(Bar(cell.plan, _parts(cell)) for cell in setting.cells)


def _parts(cell: Cell) -> tuple[float, ...]:
    totals = dict.fromkeys(ROLES, 0)
    for record in cell.records:
        for site in record.sites:
            totals[site.role] += site.bytes
        totals["other"] += record.bytes.other
        totals["adapters"] += record.bytes.adapters
    return tuple(totals[role] / len(cell.records) for role in ROLES)


def height(data: tuple[Bar, ...]) -> float:
    """Inches: a line for each bar, and the axis."""
    return 1.0 + 0.27 * max(1, len(data))


def draw(ax: Axes, data: tuple[Bar, ...]) -> None:
    """Bars from the first plan down, roles named above, totals at the ends."""
    places = range(len(data))
    left = [0.0] * len(data)
    for i, role in enumerate(ROLES):
        widths = [bar.parts[i] for bar in data]
        if any(widths):
            look: dict[str, Any] = {"color": _FILLS[i], "hatch": _HATCHES[i], "edgecolor": "white"}
            ax.barh(places, widths, left=left, height=0.7, label=role, linewidth=0.6, **look)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for place, total in zip(places, left, strict=True):
        at: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points"}
        ax.annotate(megabytes(total), (total, place), va="center", fontsize=8, color=INK, **at)
    ax.set_yticks(places, [plain(bar.plan) for bar in data])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.invert_yaxis()
    ax.set_xlabel("stored bytes")
    ax.set_xlim(0, 1.14 * max([*left, 1.0]))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(megabytes))
    ax.legend(ncols=len(ROLES), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2,
              handlelength=1.2, columnspacing=1.2, borderpad=0.2)  # fmt: skip
