"""Panels of gaps to 16 bits: by bit-width and by rank, and beside what was predicted of them.

Gaps of many bits are nothing but noise around zero, those of few bits a hundred times as large. So
the axis is logarithmic in both directions and straight around zero, and no gap is left out.
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

STRAIGHT = 1e-3
"""Nats, on both sides of zero, within which the axis is straight: less is seldom told from none."""


@dataclass(frozen=True)
class Gaps:
    """One rank's and settings' cells by bit-width: mean gap over seeds, and the predicted one."""

    label: str
    observed: dict[int, float]
    predicted: dict[int, float]


def data(rows: Sequence[Row], predicted: Mapping[Key, float]) -> list[Gaps]:
    """In the order of `series`, so that a colour is a rank in every panel."""
    found = {key: sum(values) / len(values) for key, values in gaps(rows).items()}
    return [
        Gaps(label, *({key.bits: gap for key, gap in sorted(all_of.items())
                       if (key.rank, key.settings) == mine} for all_of in (found, predicted)))
        for mine, label in series(rows).items()
    ]  # fmt: skip


def gap_by_bits(rows: Sequence[Row], predicted: Mapping[Key, float]) -> Panel:
    """Marks are observed, a dashed line of a mark's colour is what was predicted at its rank."""

    def panel(ax: Axes) -> None:
        ranks = data(rows, predicted)
        ax.set_title("Gap to 16 bits")
        if not any(one.observed for one in ranks):
            _nothing(ax, "no run with its like in 16 bits")
            return
        _nats(ax, ax.yaxis)
        ax.axhline(0, color=GREY, lw=0.6)
        for i, one in enumerate(ranks):
            # Side by side: several ranks have about the same gap.
            aside = 2 ** (0.07 * (i - (len(ranks) - 1) / 2))
            if one.observed:
                places = [bits * aside for bits in one.observed]
                ax.plot(places, list(one.observed.values()), "o", ms=3.5, color=colour(i),
                        label=one.label)  # fmt: skip
            if one.predicted:
                ax.plot(list(one.predicted), list(one.predicted.values()), color=colour(i), lw=0.9,
                        ls="--")  # fmt: skip
        if any(one.predicted for one in ranks):
            ax.plot([], [], color=GREY, lw=0.9, ls="--", label="predicted")
        bits_axis(ax, [row["bits"] for row in rows if row["bits"] < 16])
        ax.set_ylabel("nats")
        legend(ax)

    return panel


def _nothing(ax: Axes, why: str) -> None:
    """Words in the place of an empty panel."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", color=INK)


def _nats(ax: Axes, axis: Axis) -> None:
    """Logarithmic in both directions, decades written as numbers."""
    (ax.set_yscale if axis is ax.yaxis else ax.set_xscale)("symlog", linthresh=STRAIGHT)
    axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=STRAIGHT))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(SymmetricalLogLocator(base=10, linthresh=STRAIGHT, subs=range(2, 10)))
    axis.set_minor_formatter(NullFormatter())


def gap_by_rank(rows: Sequence[Row]) -> Panel:
    """A line a bit-width, through the ranks that were run with the same settings."""

    def panel(ax: Axes) -> None:
        found = gaps(rows)
        ax.set_title("Does rank need precision?")
        if not found:
            _nothing(ax, "no run with its like in 16 bits")
            return
        lines = sorted({(key.bits, key.settings) for key in found}, reverse=True)
        every = len({settings for _, settings in lines}) > 1
        for i, (bits, settings) in enumerate(lines):
            mine = sorted((k.rank, sum(v) / len(v)) for k, v in found.items()
                          if (k.bits, k.settings) == (bits, settings))  # fmt: skip
            ax.plot(*zip(*mine, strict=True), marker="o", ms=3, color=colour(i), ls=dash(i),
                    label=f"{bits} bits" + f", {settings}" * every)  # fmt: skip
        ax.axhline(0, color=GREY, lw=0.6)
        ranks = sorted({row["rank"] for row in rows})
        ax.set_xscale("symlog", base=2, linthresh=1)
        ax.set_xticks(ranks, [str(rank) for rank in ranks])
        ax.set_xlabel("rank")
        ax.set_ylabel("gap, nats")
        legend(ax)

    return panel


def both(rows: Sequence[Row], predicted: Mapping[Key, float]) -> Panel:
    """A mark a cell, each rank's predictions beside its own gaps; on the line theory is right."""

    def panel(ax: Axes) -> None:
        found = [(i, one, sorted(set(one.observed) & set(one.predicted)))
                 for i, one in enumerate(data(rows, predicted))]  # fmt: skip
        ends = [side[b] for _, one, bits in found for b in bits
                for side in (one.predicted, one.observed)]  # fmt: skip
        ax.set_title("Theory and practice")
        if not ends:
            _nothing(ax, "nothing was predicted")
            return
        _nats(ax, ax.xaxis)
        _nats(ax, ax.yaxis)
        for i, one, bits in found:
            if bits:
                ax.plot([one.predicted[b] for b in bits], [one.observed[b] for b in bits], "o",
                        ms=3.5, color=colour(i), label=one.label)  # fmt: skip
        ax.plot([min(ends), max(ends)], [min(ends), max(ends)], color=GREY, lw=0.8, zorder=0)
        limits = [*ax.get_xlim(), *ax.get_ylim()]
        ax.set_xlim(min(limits), max(limits))
        ax.set_ylim(min(limits), max(limits))
        ax.set_xlabel("predicted gap, nats")
        ax.set_ylabel("observed gap, nats")
        ax.legend(loc="upper left")

    return panel
