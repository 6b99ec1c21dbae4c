"""Panels of gaps to 16 bits: by bit-width, by rank, and next to the predicted gaps.

Gaps at many bits are noise around zero, and gaps at few bits are a hundred times as large. The axis
is therefore logarithmic in both directions and linear around zero, and shows every gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, NullFormatter, SymmetricalLogLocator

from lowbit.report.figures.style import GREY, INK, colour, dash
from original_plan.pairs import Key, Row, gaps, series
from original_plan.run_panels import Panel, bits_axis, legend

LINEAR = 1e-3
"""Nats on both sides of zero where the axis is linear: smaller gaps are seldom significant."""


@dataclass(frozen=True)
class Gaps:
    """The mean gap over seeds and the predicted gap by bit-width, for one rank and settings."""

    label: str
    observed: dict[int, float]
    predicted: dict[int, float]


def data(rows: Sequence[Row], predicted: Mapping[Key, float]) -> list[Gaps]:
    """In the order of `series`, so that a rank has the same colour in every panel."""
    means = {key: sum(values) / len(values) for key, values in gaps(rows).items()}
    return [
        Gaps(label, *({key.bits: gap for key, gap in sorted(by_cell.items())
                       if (key.rank, key.settings) == line} for by_cell in (means, predicted)))
        for line, label in series(rows).items()
    ]  # fmt: skip


def gap_by_bits(rows: Sequence[Row], predicted: Mapping[Key, float]) -> Panel:
    """Marks are observed gaps; a dashed line of the same colour is the prediction at that rank."""

    def panel(ax: Axes) -> None:
        ranks = data(rows, predicted)
        ax.set_title("Gap to 16 bits")
        if not any(rank.observed for rank in ranks):
            _empty(ax, "no run has a 16-bit partner")
            return
        _nats(ax, ax.yaxis)
        ax.axhline(0, color=GREY, lw=0.6)
        for i, rank in enumerate(ranks):
            # Shifted sideways, since several ranks have about the same gap.
            shift = 2 ** (0.07 * (i - (len(ranks) - 1) / 2))
            if rank.observed:
                places = [bits * shift for bits in rank.observed]
                ax.plot(places, list(rank.observed.values()), "o", ms=3.5, color=colour(i),
                        label=rank.label)  # fmt: skip
            if rank.predicted:
                ax.plot(list(rank.predicted), list(rank.predicted.values()), color=colour(i),
                        lw=0.9, ls="--")  # fmt: skip
        if any(rank.predicted for rank in ranks):
            ax.plot([], [], color=GREY, lw=0.9, ls="--", label="predicted")
        bits_axis(ax, [row["bits"] for row in rows if row["bits"] < 16])
        ax.set_ylabel("nats")
        legend(ax)

    return panel


def _empty(ax: Axes, reason: str) -> None:
    """An empty panel with the reason as text."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", color=INK)


def _nats(ax: Axes, axis: Axis) -> None:
    """A logarithmic axis in both directions, with decades written as numbers."""
    (ax.set_yscale if axis is ax.yaxis else ax.set_xscale)("symlog", linthresh=LINEAR)
    axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR, subs=range(2, 10)))
    axis.set_minor_formatter(NullFormatter())


def gap_by_rank(rows: Sequence[Row]) -> Panel:
    """A line for each bit-width, through the ranks of the same settings."""

    def panel(ax: Axes) -> None:
        by_cell = gaps(rows)
        ax.set_title("Does rank need precision?")
        if not by_cell:
            _empty(ax, "no run has a 16-bit partner")
            return
        lines = sorted({(key.bits, key.settings) for key in by_cell}, reverse=True)
        several = len({settings for _, settings in lines}) > 1
        for i, (bits, settings) in enumerate(lines):
            points = sorted((k.rank, sum(v) / len(v)) for k, v in by_cell.items()
                            if (k.bits, k.settings) == (bits, settings))  # fmt: skip
            ax.plot(*zip(*points, strict=True), marker="o", ms=3, color=colour(i), ls=dash(i),
                    label=f"{bits} bits" + f", {settings}" * several)  # fmt: skip
        ax.axhline(0, color=GREY, lw=0.6)
        ranks = sorted({row["rank"] for row in rows})
        ax.set_xscale("symlog", base=2, linthresh=1)
        ax.set_xticks(ranks, [str(rank) for rank in ranks])
        ax.set_xlabel("rank")
        ax.set_ylabel("gap, nats")
        legend(ax)

    return panel


def predicted_and_observed(rows: Sequence[Row], predicted: Mapping[Key, float]) -> Panel:
    """A mark for each cell; on the diagonal, the prediction equals the observed gap."""

    def panel(ax: Axes) -> None:
        ranks = [(i, rank, sorted(set(rank.observed) & set(rank.predicted)))
                 for i, rank in enumerate(data(rows, predicted))]  # fmt: skip
        ends = [gap[b] for _, rank, bits in ranks for b in bits
                for gap in (rank.predicted, rank.observed)]  # fmt: skip
        ax.set_title("Theory and practice")
        if not ends:
            _empty(ax, "nothing was predicted")
            return
        _nats(ax, ax.xaxis)
        _nats(ax, ax.yaxis)
        for i, rank, bits in ranks:
            if bits:
                ax.plot([rank.predicted[b] for b in bits], [rank.observed[b] for b in bits], "o",
                        ms=3.5, color=colour(i), label=rank.label)  # fmt: skip
        ax.plot([min(ends), max(ends)], [min(ends), max(ends)], color=GREY, lw=0.8, zorder=0)
        limits = [*ax.get_xlim(), *ax.get_ylim()]
        ax.set_xlim(min(limits), max(limits))
        ax.set_ylim(min(limits), max(limits))
        ax.set_xlabel("predicted gap, nats")
        ax.set_ylabel("observed gap, nats")
        ax.legend(loc="upper left")

    return panel
