"""How every figure looks: one width, one type size, colours that survive grey and colour blindness.

The colours are Okabe and Ito's, ordered so that neighbours differ in lightness; a dash pattern goes
with each, so that no difference rests on colour alone.
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
    """The pattern changes with the colour, and again when the colours come round."""
    return DASHES[(index + index // len(COLOURS)) % len(DASHES)]


def plain(label: str, longest: int = 28) -> str:
    """A label that stays on one line and inside the figure."""
    label = " ".join(label.split())
    return label if len(label) <= longest else label[: longest - 1] + "…"


def decades(axis: Axis) -> None:
    """A logarithmic axis whose decades are written as numbers; narrow ones also get 2 and 5."""
    low, high = sorted(axis.get_view_interval())
    few = math.log10(max(high, 1e-300) / max(low, 1e-300)) < 2
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def megabytes(value: float, _position: Any = None) -> str:
    """`850 kB`, `12 MB`: a tick's words."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} B" if value else "0"


# Where a label may stand, nearest first: (x, y) in points and how it is anchored there.
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
    """Write each label beside its point where it covers neither a label nor a point.

    Points and obstacles are in data units. Greedy and deterministic; a label that had to move away
    is tied to its point by a hairline. Where nothing is free the spot that covers least is taken.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    frame = ax.get_window_extent()
    pad = 2.5 * figure.dpi / 72
    taken = [
        Bbox.from_bounds(x - pad, y - pad, 2 * pad, 2 * pad)
        for x, y in ax.transData.transform([p[:2] for p in points] + list(obstacles))
    ]
    placed: list[Text] = []
    for x, y, label in points:
        text, box = _best_spot(ax, (x, y), label, taken, frame)
        taken.append(box)
        placed.append(text)
    return placed


def _best_spot(
    ax: Axes, point: tuple[float, float], label: str, taken: Sequence[Bbox], frame: Bbox
) -> tuple[Annotation, Bbox]:
    text = ax.annotate(
        label, point, xytext=(0, 0), textcoords="offset points", fontsize=8, color=INK
    )
    text.set_in_layout(False)
    costs = []
    for spot in _SPOTS:
        box = _put(text, spot)
        covered = sum(_overlap(box, other) for other in taken)
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


def _overlap(one: Bbox, two: Bbox) -> float:
    width = min(one.x1, two.x1) - max(one.x0, two.x0)
    height = min(one.y1, two.y1) - max(one.y0, two.y0)
    return max(0.0, width) * max(0.0, height)
