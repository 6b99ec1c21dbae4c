"""Ranks and bits of every matrix, one panel per plan, with matrices as rows and layers as columns.

The shade and the number of a cell are the adapter's rank after training (mean over seeds). The
frame shows the bits of the base. Together they show whether ranks are high where bits are low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from lowbit.core.spec import BLOCK_ROLES
from lowbit.quant.formats import bits_of, parse
from lowbit.report.figures.style import GREY, INK, plain
from lowbit.study.cells import Cell, Setting

SHADES = ("#ffffff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c")
FRAMES = (
    (0.0, 3.5, "#cc79a7", "below 4 bits"),
    (4.5, 8.5, "#e69f00", "5 to 8 bits"),
    (8.5, 99.0, "#d55e00", "16 bits"),
)
"""(bits above, bits up to, colour, label) of each frame; four bits have no frame."""
ROOM = 1.6
"""Space between panels in cells, enough for a title."""


@dataclass(frozen=True)
class RankCell:
    """One matrix of one layer."""

    row: int
    layer: int
    rank: float
    bits: float
    format: str
    bytes: int


@dataclass(frozen=True)
class Panel:
    """One plan."""

    plan: str
    cells: tuple[RankCell, ...]


@dataclass(frozen=True)
class Ranks:
    """The panels of one setting; `matrices` names the rows."""

    matrices: tuple[str, ...]
    layers: int
    panels: tuple[Panel, ...]

    @property
    def most(self) -> float:
        return max((c.rank for panel in self.panels for c in panel.cells), default=0.0)


def data(setting: Setting) -> Ranks:
    """Final ranks of block matrices, averaged over the finished seeds."""
    sites = [s for s in setting.cells[0].records[0].sites if s.role in BLOCK_ROLES]
    rows = tuple(dict.fromkeys(_matrix(s.name, s.depth) for s in sites))
    layers = 1 + max((s.depth for s in sites if s.depth is not None), default=-1)
    panels = tuple(_panel(cell, rows) for cell in setting.cells if cell.done)
    return Ranks(rows, layers, panels)


def _matrix(name: str, depth: int | None) -> str:
    """A site's name inside its block."""
    parts = name.split(".")
    return ".".join(parts[parts.index(str(depth)) + 1 :])


def _panel(cell: Cell, rows: Sequence[str]) -> Panel:
    records = [run.record for run in cell.done.values()]
    cells = []
    for i, site in enumerate(records[0].sites):
        if site.role in BLOCK_ROLES and site.depth is not None:
            rank = sum(record.sites[i].final_rank for record in records) / len(records)
            bits = bits_of(parse(site.format))
            row = rows.index(_matrix(site.name, site.depth))
            cells.append(RankCell(row, site.depth, rank, bits, site.format, site.bytes))
    return Panel(cell.plan, tuple(cells))


def across(data: Ranks) -> int:
    """The number of panels in a row."""
    return max(1, min(3, 24 // max(1, data.layers + 1)))


def height(data: Ranks) -> float:
    lines = -(-len(data.panels) // across(data))
    return 0.7 + 0.17 * lines * (len(data.matrices) + ROOM)


def draw(ax: Axes, data: Ranks) -> None:
    """Draw all panels on one pair of axes, in units of cells."""
    wide, tall, many = data.layers + 1.0, len(data.matrices) + ROOM, across(data)
    for i, panel in enumerate(data.panels):
        left, top = (i % many) * wide, (i // many) * tall
        ax.text(left, top - 0.3, plain(panel.plan, 24), fontsize=8, va="bottom", color=INK)
        for cell in panel.cells:
            _cell(ax, left + cell.layer, top + cell.row, cell, data.most)
    lines = -(-len(data.panels) // many)
    labels = [(line * tall + row + 0.5, name) for line in range(lines)
              for row, name in enumerate(data.matrices)]  # fmt: skip
    ax.set_yticks([place for place, _ in labels], [name for _, name in labels], fontsize=6)
    ticks = [(i * wide + layer + 0.5, layer) for i in range(many) for layer in range(data.layers)]
    ax.set_xticks([place for place, _ in ticks], [str(layer) for _, layer in ticks], fontsize=6)
    ax.set_xlim(-0.1, many * wide - 0.9)
    ax.set_ylim(lines * tall - ROOM + 0.1, -1.3)
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel("layer")
    drawn = {c.bits for panel in data.panels for c in panel.cells}
    handles = [
        Patch(facecolor="white", edgecolor=hue, lw=1.4, label=name)
        for above, most, hue, name in FRAMES
        if any(above < bits <= most for bits in drawn)
    ]
    if handles:
        ax.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1
        )


def _cell(ax: Axes, x: float, y: float, cell: RankCell, most: float) -> None:
    share = cell.rank / most if most else 0.0
    look: dict[str, Any] = {"facecolor": SHADES[round(share * (len(SHADES) - 1))]}
    ax.add_patch(Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, edgecolor="#dedede", lw=0.3, **look))
    frame = [hue for above, most, hue, _ in FRAMES if above < cell.bits <= most]
    if frame:
        ax.add_patch(Rectangle((x + 0.1, y + 0.1), 0.8, 0.8, fill=False, edgecolor=frame[0], lw=1))
    ink = "white" if share > 0.6 else INK if cell.rank else GREY
    ax.text(
        x + 0.5, y + 0.53, f"{cell.rank:.0f}", fontsize=5.5, ha="center", va="center", color=ink
    )
