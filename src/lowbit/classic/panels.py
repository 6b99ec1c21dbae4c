"""The documents' figures: by bit-width, nine panels, theory against random numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lowbit.classic.summary import Row, cells, gaps
from lowbit.figures.look import COLOURS, GREY, RC, WIDTH, dash, decades
from lowbit.files import write_atomic

Panel = Callable[[Axes], None]


def save(path: Path, panels: Sequence[Panel], columns: int) -> Path:
    """Panels in rows of so many, as PNG."""
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


def _by_bits(rows: Sequence[Row], key: str, title: str, name: str, log: bool = False) -> Panel:
    """Means over seeds, a line a rank, small dots the seeds."""

    def panel(ax: Axes) -> None:
        found = cells(rows)
        for i, rank in enumerate(sorted({rank for _, rank in found})):
            mine = {bits: [r[key] for r in runs if r.get(key) is not None]
                    for (bits, other), runs in found.items() if other == rank}  # fmt: skip
            mine = {bits: values for bits, values in sorted(mine.items()) if values}
            for bits, values in mine.items():
                ax.plot([bits] * len(values), values, ".", ms=3, color=COLOURS[i % 7], alpha=0.5)
            means = [sum(values) / len(values) for values in mine.values()]
            ax.plot(list(mine), means, marker="o", ms=3, color=COLOURS[i % 7], ls=dash(i),
                    label=f"rank {rank}")  # fmt: skip
        _bits_axis(ax, [bits for bits, _ in found], title, name, log)
        ax.legend()

    return panel


def _bits_axis(ax: Axes, bits: Sequence[int], title: str, name: str, log: bool) -> None:
    ax.set_xscale("log", base=2)
    ticks = sorted(set(bits))
    ax.set_xticks(ticks, [str(b) for b in ticks])
    ax.minorticks_off()
    ax.set_xlabel("bits")
    ax.set_ylabel(name)
    ax.set_title(title)
    if log:
        ax.set_yscale("log")
        decades(ax.yaxis)


def _gap(rows: Sequence[Row], predicted: Mapping[int, float]) -> Panel:
    def panel(ax: Axes) -> None:
        found = gaps(rows)
        for i, rank in enumerate(sorted({rank for _, rank in found})):
            mine = sorted((b, sum(v) / len(v)) for (b, r), v in found.items() if r == rank)
            above = [(b, v) for b, v in mine if v > 0]
            if above:
                ax.plot(*zip(*above, strict=True), "o", ms=3, color=COLOURS[i % 7],
                        label=f"rank {rank}")  # fmt: skip
        shown = sorted((b, v) for b, v in predicted.items() if v > 0)
        if shown:
            ax.plot(*zip(*shown, strict=True), color=GREY, lw=1, ls="--", label="predicted")
        _bits_axis(ax, [b for b, _ in found] or [4, 8], "Gap to 16 bits", "nats", log=True)
        ax.legend()

    return panel


def _by_rank(rows: Sequence[Row]) -> Panel:
    def panel(ax: Axes) -> None:
        found = gaps(rows)
        for i, bits in enumerate(sorted({b for b, _ in found}, reverse=True)):
            mine = sorted((r, sum(v) / len(v)) for (b, r), v in found.items() if b == bits)
            ax.plot(*zip(*mine, strict=True), marker="o", ms=3, color=COLOURS[i % 7], ls=dash(i),
                    label=f"{bits} bits")  # fmt: skip
        ax.axhline(0, color=GREY, lw=0.6)
        ax.set_xlabel("rank")
        ax.set_ylabel("gap, nats")
        ax.set_title("Does rank need precision?")
        if found:
            ax.legend()

    return panel


def _bars(rows: Sequence[Row], key: str, title: str, name: str) -> Panel:
    def panel(ax: Axes) -> None:
        bits = sorted({row["bits"] for row in rows}, reverse=True)
        values = [[r[key] for r in rows if r["bits"] == b and r.get(key) is not None] for b in bits]
        means = [sum(v) / len(v) if v else 0.0 for v in values]
        ax.bar(range(len(bits)), means, color=COLOURS[1], width=0.6)
        for i, found in enumerate(values):
            ax.plot([i] * len(found), found, ".", ms=3, color=COLOURS[0])
        ax.set_xticks(range(len(bits)), [f"{b} bit" for b in bits])
        ax.set_ylabel(name)
        ax.set_title(title)

    return panel


def _bytes(rows: Sequence[Row]) -> Panel:
    def panel(ax: Axes) -> None:
        for i, bits in enumerate(sorted({row["bits"] for row in rows}, reverse=True)):
            mine = [(r["stored_bytes"] / 1e6, r["eval_loss"]) for r in rows if r["bits"] == bits]
            ax.plot(*zip(*mine, strict=True), "o", ms=3, color=COLOURS[i % 7], label=f"{bits} bits")
        ax.set_xlabel("stored, MB")
        ax.set_ylabel("loss")
        ax.set_title("What bytes buy")
        ax.legend()

    return panel


def _curves(rows: Sequence[Row]) -> Panel:
    def panel(ax: Axes) -> None:
        for i, bits in enumerate(sorted({row["bits"] for row in rows}, reverse=True)):
            for j, row in enumerate(r for r in rows if r["bits"] == bits and r["curve"]):
                ax.plot(*zip(*row["curve"], strict=True), lw=0.7, color=COLOURS[i % 7],
                        label="" if j else f"{bits} bits")  # fmt: skip
        ax.set_xlabel("step")
        ax.set_ylabel("training loss")
        ax.set_title("Training")
        ax.legend()

    return panel


def _foreseen(rows: Sequence[Row], predicted: Mapping[int, float]) -> Panel:
    def panel(ax: Axes) -> None:
        points = [(predicted[b], v) for (b, _), found in gaps(rows).items() if b in predicted
                  for v in found]  # fmt: skip
        if points:
            ax.plot(*zip(*points, strict=True), "o", ms=3, color=COLOURS[1])
            ends = [min(min(p) for p in points), max(max(p) for p in points)]
            ax.plot(ends, ends, color=GREY, lw=0.8)
        ax.set_xlabel("predicted gap, nats")
        ax.set_ylabel("observed gap, nats")
        ax.set_title("Theory and practice")

    return panel


def loss_by_bits(rows: Sequence[Row], path: Path) -> Path:
    """Bit-width against loss and perplexity."""
    panels = (
        _by_bits(rows, "eval_loss", "Loss", "nats"),
        _by_bits(rows, "perplexity", "Perplexity", ""),
    )
    return save(path, panels, 2)


def noise_by_bits(rows: Sequence[Row], path: Path) -> Path:
    """Gradient noise against bit-width."""
    panel = _bars(rows, "gradient_variance", "Gradient noise", "variance, summed")
    return save(path, (panel, _bars(rows, "gradient_norm", "Gradient norm", "mean")), 2)


def nine(rows: Sequence[Row], predicted: Mapping[int, float], path: Path) -> Path:
    """Everything at a glance."""
    panels = (
        _by_bits(rows, "eval_loss", "Loss", "nats"),
        _by_bits(rows, "perplexity", "Perplexity", ""),
        _gap(rows, predicted),
        _by_rank(rows),
        _bars(rows, "gradient_norm", "Gradient norm", "mean"),
        _bars(rows, "gradient_variance", "Gradient noise", "variance, summed"),
        _bytes(rows),
        _curves(rows),
        _foreseen(rows, predicted),
    )
    return save(path, panels, 3)


def theory(found: Mapping[str, Any], path: Path) -> Path:
    """Each law beside its Monte Carlo."""

    def beside(key: str, at: str, pairs: Sequence[tuple[str, str]], title: str) -> Panel:
        def panel(ax: Axes) -> None:
            rows = found[key]
            places = [i if at == "format" else row[at] for i, row in enumerate(rows)]
            for i, (name, label) in enumerate(pairs):
                values = [row[name] for row in rows]
                # What was drawn at random is a mark, what the law says a line.
                drawn = name in ("monte_carlo", "mean", "sd", "fresh", "frozen")
                style: dict[str, Any] = {"marker": "o", "ls": ""} if drawn else {"ls": dash(i)}
                ax.plot(places, values, ms=4, color=COLOURS[i], label=label, **style)
            words = [str(row[at]).split("@")[0] for row in rows]
            ax.set_xticks(places, words, rotation=45 if at == "format" else 0)
            ax.set_xlabel(at)
            ax.set_yscale("log")
            decades(ax.yaxis)
            ax.set_title(title)
            ax.legend()

        return panel

    monte = ("monte_carlo", "Monte Carlo")
    panels = (
        beside("distortion", "format", (monte, ("integral", "integral over levels")),
               "Distortion of Gaussian weights"),
        beside("midtread", "width", (monte, ("series", "exact series"), ("uniform", "D²/12")),
               "Mid-tread noise"),
        beside("damage", "bits", (("mean", "mean"), ("expected", "½ tr(HS)"),
                                  ("sd", "its spread"), ("expected_sd", "√(g'Sg + …)")),
               "Damage and its spread"),
        beside("gradient", "bits", (("fresh", "fresh noise"),
                                    ("expected", "tr(HSH)"), ("frozen", "frozen: times own")),
               "Gradient variance"),
    )  # fmt: skip
    return save(path, panels, 2)
