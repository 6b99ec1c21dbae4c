"""Figures for a paper, one file each, with `data(setting)` and `draw(ax, data)`.

bars       stacked bars, one per plan
curves     loss over steps
forest     gain of every plan over a control
frontier   predicted loss increase over stored bytes
gradients  gradient norms by layer
memory     peak memory of a run, by use
pareto     loss over stored bytes
predicted  predicted gaps over observed gaps
ranks      ranks and bits of every matrix, by layer
sizes      stored bytes by role
style      colours, sizes and number formats

`data` returns plain dataclasses, which are tested without drawing and shared with the interactive
charts of the page. `save` writes a PDF and a PNG without dates: equal records give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lowbit.core.errors import UserError, nearest
from lowbit.core.files import write_atomic
from lowbit.report.figures import (
    bars,
    curves,
    forest,
    frontier,
    gradients,
    memory,
    pareto,
    predicted,
    ranks,
    sizes,
)
from lowbit.report.figures.style import RC, WIDTH

DRAWERS: dict[str, tuple[Callable[[Any, Any], None], Callable[[Any], float]]] = {
    "pareto": (pareto.draw, lambda data: 0.62 * WIDTH),
    "curves": (curves.draw, lambda data: 0.62 * WIDTH),
    "bytes": (sizes.draw, bars.height),
    "memory": (memory.draw, bars.height),
    "ranks": (ranks.draw, ranks.height),
    "gradients": (gradients.draw, lambda data: 0.5 * WIDTH),
    "forest": (forest.draw, forest.height),
    "predicted": (predicted.draw, lambda data: 0.8 * WIDTH),
    "frontier": (frontier.draw, lambda data: 0.62 * WIDTH),
}
"""The drawing function of each figure, and the function that gives its height in inches."""


def save(name: str, data: Any, folder: Path, stem: str = "") -> list[Path]:
    """Draw figure `name` and write STEM.pdf and STEM.png (default stem: the figure's name)."""
    if name not in DRAWERS:
        raise UserError(f"unknown figure '{name}'.{nearest(name, DRAWERS)}")
    draw, height = DRAWERS[name]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(WIDTH, height(data)), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.add_subplot(), data)
        pdf = _write(figure, folder / f"{stem or name}.pdf", {"CreationDate": None})
        figure.set_layout_engine("none")  # Keep the layout of the PDF, so that both look the same.
        png = _write(figure, folder / f"{stem or name}.png", {"Software": None})
    return [pdf, png]


def _write(figure: Figure, path: Path, metadata: dict[str, None]) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=200, metadata=metadata)
    write_atomic(path, content.getvalue())
    return path
