"""The original plan's figures: loss and gradients by bits, nine panels, theory and Monte Carlo."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lowbit.core.files import write_atomic
from lowbit.report.figures.style import COLOURS, RC, WIDTH, dash, decades
from original_plan import gap_panels, run_panels
from original_plan.pairs import Key, Row
from original_plan.run_panels import Panel


def save(path: Path, panels: Sequence[Panel], columns: int) -> Path:
    """Draw panels in rows of `columns`, and write them as PNG."""
    rows = -(-len(panels) // columns)
    with mpl.rc_context(RC | {"font.size": 7.5, "axes.titlesize": 8, "legend.fontsize": 6.5}):
        size = (WIDTH * columns / 2, 2.3 * rows)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        for i, panel in enumerate(panels):
            panel(figure.add_subplot(rows, columns, i + 1))
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=170, metadata={"Software": None})
    write_atomic(path, content.getvalue())
    return path


def loss_by_bits(rows: Sequence[Row], path: Path) -> Path:
    """Loss and perplexity by bit-width."""
    panels = (
        run_panels.by_bits(rows, "eval_loss", "Loss", "nats"),
        run_panels.by_bits(rows, "perplexity", "Perplexity", ""),
    )
    return save(path, panels, 2)


def noise_by_bits(rows: Sequence[Row], path: Path) -> Path:
    """Gradient noise and norm by bit-width."""
    return save(path, _gradients(rows), 2)


def _gradients(rows: Sequence[Row]) -> tuple[Panel, Panel]:
    return (
        run_panels.bars(rows, "gradient_variance", "Gradient noise", "variance after the warm-up"),
        run_panels.bars(rows, "gradient_norm", "Gradient norm", "mean after the warm-up"),
    )


def nine_panels(rows: Sequence[Row], predicted: Mapping[Key, float], path: Path) -> Path:
    """All results in nine panels."""
    noise, norm = _gradients(rows)
    panels = (
        run_panels.by_bits(rows, "eval_loss", "Loss", "nats"),
        run_panels.by_bits(rows, "perplexity", "Perplexity", ""),
        gap_panels.gap_by_bits(rows, predicted),
        gap_panels.gap_by_rank(rows),
        norm,
        noise,
        run_panels.bytes_and_loss(rows),
        run_panels.curves(rows),
        gap_panels.predicted_and_observed(rows, predicted),
    )
    return save(path, panels, 3)


def theory_panels(simulation: Mapping[str, Any], path: Path) -> Path:
    """Each law next to its Monte Carlo."""

    def compare(key: str, at: str, pairs: Sequence[tuple[str, str]], title: str) -> Panel:
        def panel(ax: Axes) -> None:
            rows = simulation[key]
            places = [i if at == "format" else row[at] for i, row in enumerate(rows)]
            for i, (name, label) in enumerate(pairs):
                values = [row[name] for row in rows]
                # Monte Carlo results are marks, laws are lines.
                random = name in ("monte_carlo", "mean", "sd", "fresh", "frozen")
                style: dict[str, Any] = {"marker": "o", "ls": ""} if random else {"ls": dash(i)}
                ax.plot(places, values, ms=4, color=COLOURS[i], label=label, **style)
            labels = [str(row[at]).split("@")[0] for row in rows]
            ax.set_xticks(places, labels, rotation=45 if at == "format" else 0)
            ax.set_xlabel(at)
            ax.set_yscale("log")
            decades(ax.yaxis)
            ax.set_title(title)
            ax.legend()

        return panel

    monte = ("monte_carlo", "Monte Carlo")
    panels = (
        compare("distortion", "format", (monte, ("integral", "integral over levels")),
               "Distortion of Gaussian weights"),
        compare("midtread", "width", (monte, ("series", "exact series"), ("uniform", "D²/12")),
               "Mid-tread noise"),
        compare("damage", "bits", (("mean", "mean"), ("expected", "½ tr(HS)"),
                                  ("sd", "its spread"), ("expected_sd", "√(g'Sg + …)")),
               "Damage and its spread"),
        compare("gradient", "bits", (("fresh", "fresh noise"),
                                    ("fresh_expected", "law (21) + (28)"),
                                    ("frozen", "frozen base"),
                                    ("frozen_expected", "law (28)")),
               "Gradient variance added, × its own"),
    )  # fmt: skip
    return save(path, panels, 2)
