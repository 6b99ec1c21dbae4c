"""The style of every figure: width, font size, and colours that also work in grey.

The colours are Okabe and Ito's, for colour-blind readers, ordered so that neighbours differ in
lightness. Each goes with a dash pattern, so that lines differ in more than colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

WIDTH = 6.0
INK, GREY = "#1a1a1a", "#6b6b6b"
COLOURS = ("#1a1a1a", "#0072b2", "#d55e00", "#56b4e9", "#009e73", "#cc79a7", "#e69f00")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,
}


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> Any:
    """The dash pattern of a line; lines that share a colour have different patterns."""
    return DASHES[(index + index // len(COLOURS)) % len(DASHES)]


def plain(label: str, longest: int = 28) -> str:
    """A label shortened to one line."""
    label = " ".join(label.split())
    return label if len(label) <= longest else label[: longest - 1] + "…"


def decades(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers; a short range also gets 2 and 5."""
    low, high = sorted(axis.get_view_interval())
    few = math.log10(max(high, 1e-300) / max(low, 1e-300)) < 2
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def megabytes(value: float, _position: Any = None) -> str:
    """A size like `850 kB` or `12 MB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} B" if value else "0"


# Positions of a label, nearest first: (x, y) in points, and its alignment.
_SPOTS: tuple[tuple[float, float, str, str], ...] = tuple(
    (x * far, y * far, horizontal, vertical)
    for far in (1.0, 2.2, 3.6, 5.0, 7.0)
    for x, y, horizontal, vertical in (
        (6, 0, "left", "center"),
        (-6, 0, "right", "center"),
        (0, 6, "center", "bottom"),
        (0, -6, "center", "top"),
        (4.5, 4.5, "left", "bottom"),
        (-4.5, 4.5, "right", "bottom"),
        (4.5, -4.5, "left", "top"),
        (-4.5, -4.5, "right", "top"),
    )
)


def place_labels(
    ax: Axes, points: Sequence[tuple[float, float, str]], obstacles: Sequence[tuple[float, float]]
) -> list[Text]:
    """Write each label near its point, where it covers no other label or point.

    Points and obstacles are in data units. The placement is greedy and deterministic. A label that
    had to move away gets a thin line to its point. If no position is free, it takes the one that
    covers least.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    frame = ax.get_window_extent()
    pad = 2.5 * figure.dpi / 72
    occupied = [
        Bbox.from_bounds(x - pad, y - pad, 2 * pad, 2 * pad)
        for x, y in ax.transData.transform([p[:2] for p in points] + list(obstacles))
    ]
    placed: list[Text] = []
    for x, y, label in points:
        text, box = _best_spot(ax, (x, y), label, occupied, frame)
        occupied.append(box)
        placed.append(text)
    return placed


def _best_spot(
    ax: Axes, point: tuple[float, float], label: str, occupied: Sequence[Bbox], frame: Bbox
) -> tuple[Annotation, Bbox]:
    text = ax.annotate(
        label, point, xytext=(0, 0), textcoords="offset points", fontsize=8, color=INK
    )
    text.set_in_layout(False)
    costs = []
    for spot in _SPOTS:
        box = _put(text, spot)
        covered = sum(_overlap(box, other) for other in occupied)
        outside = box.width * box.height - _overlap(box, frame)
        costs.append(covered + 10 * outside)
        if costs[-1] < 1e-6:
            break
    best = _SPOTS[costs.index(min(costs))]
    box = _put(text, best)
    if max(abs(best[0]), abs(best[1])) > 8:
        ax.annotate(
            "",
            point,
            xytext=best[:2],
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5, "shrinkA": 0, "shrinkB": 3},
            zorder=1,
        ).set_in_layout(False)
    return text, box


def _put(text: Annotation, spot: tuple[float, float, str, str]) -> Bbox:
    text.set_position(spot[:2])
    text.set_horizontalalignment(spot[2])  # type: ignore[arg-type]
    text.set_verticalalignment(spot[3])  # type: ignore[arg-type]
    return text.get_window_extent()


def _overlap(first: Bbox, second: Bbox) -> float:
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return max(0.0, width) * max(0.0, height)
