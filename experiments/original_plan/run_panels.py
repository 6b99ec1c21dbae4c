"""Panels of losses, gradients, bytes and training curves; a colour is a rank or a bit-width.

A series is all runs of one rank and one set of settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from lowbit.report.figures.style import INK, colour, dash
from original_plan.pairs import Row, cells, series

Panel = Callable[[Axes], None]


@dataclass(frozen=True)
class Series:
    """One number for each seed, by bit-width, of the runs of one rank and settings."""

    label: str
    values: dict[int, list[float]]

    @property
    def means(self) -> dict[int, float]:
        return {bits: sum(numbers) / len(numbers) for bits, numbers in self.values.items()}


def data(rows: Sequence[Row], key: str) -> list[Series]:
    """A series for every rank and settings, in the order of `series`.

    Runs that did not log `key` are left out.
    """
    lines = []
    by_cell = sorted(cells(rows).items())
    for (rank, settings), label in series(rows).items():
        by_width = {
            cell.bits: [run[key] for run in runs if run.get(key) is not None]
            for cell, runs in by_cell
            if (cell.rank, cell.settings) == (rank, settings)
        }
        lines.append(Series(label, {bits: values for bits, values in by_width.items() if values}))
    return lines


def by_bits(rows: Sequence[Row], key: str, title: str, name: str) -> Panel:
    """A line through the means over seeds for each series; small dots are single seeds."""

    def panel(ax: Axes) -> None:
        for i, line in enumerate(data(rows, key)):
            for bits, values in line.values.items():
                ax.plot([bits] * len(values), values, ".", ms=3, color=colour(i), alpha=0.5)
            means = line.means
            ax.plot(list(means), list(means.values()), marker="o", ms=3, color=colour(i),
                    ls=dash(i), label=line.label)  # fmt: skip
        bits_axis(ax, [row["bits"] for row in rows])
        ax.set_ylabel(name)
        ax.set_title(title)
        legend(ax)

    return panel


def bits_axis(ax: Axes, bits: Sequence[int]) -> None:
    """A logarithmic axis with a tick at every bit-width."""
    ax.set_xscale("log", base=2)
    ticks = sorted(set(bits))
    ax.set_xticks(ticks, [str(b) for b in ticks])
    ax.minorticks_off()
    ax.set_xlabel("bits")


def legend(ax: Axes) -> None:
    """A legend above the data, which is given the space by a higher axis; none without labels."""
    handles, labels = ax.get_legend_handles_labels()
    if not labels:
        return
    columns = 2 if max(map(len, labels)) < 12 else 1
    share = min(0.6, 0.03 + 0.08 * -(-len(labels) // columns))  # of the panel's height
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(ax.get_ylim())
    ax.set_ylim(top=float(scale.inverted().transform([low + (high - low) / (1 - share)])[0]))
    ax.legend(handles, labels, loc="upper right", ncols=columns, columnspacing=1.0)


def bars(rows: Sequence[Row], key: str, title: str, name: str) -> Panel:
    """A bar for each rank, grouped by bit-width, as high as the mean; dots are single seeds."""

    def panel(ax: Axes) -> None:
        bits, ranks = sorted({row["bits"] for row in rows}, reverse=True), data(rows, key)
        width = 0.84 / len(ranks)
        for i, rank in enumerate(ranks):
            places = {b: bits.index(b) + (i - (len(ranks) - 1) / 2) * width for b in rank.values}
            ax.bar([places[b] for b in rank.values], list(rank.means.values()), width * 0.92,
                   color=colour(i), label=rank.label)  # fmt: skip
            for b, values in rank.values.items():
                ax.plot([places[b]] * len(values), values, "o", ms=2.2, color="white", mec=INK,
                        mew=0.5)  # fmt: skip
        ax.set_xticks(range(len(bits)), [str(b) for b in bits])
        ax.set_xlabel("bits")
        ax.set_ylabel(name)
        ax.set_title(title)
        legend(ax)
        missing = sum(row.get(key) is None for row in rows)
        if missing:
            note = f"not logged by {missing} of {len(rows)} runs"
            ax.text(0.02, 0.97, note, transform=ax.transAxes, va="top", fontsize=6, color=INK)

    return panel


def bytes_and_loss(rows: Sequence[Row]) -> Panel:
    """A mark for each run: loss by stored bytes."""

    def panel(ax: Axes) -> None:
        for i, bits in enumerate(sorted({row["bits"] for row in rows}, reverse=True)):
            points = [(r["stored_bytes"] / 1e6, r["eval_loss"]) for r in rows if r["bits"] == bits]
            ax.plot(*zip(*points, strict=True), "o", ms=3, color=colour(i), label=f"{bits} bits")
        ax.set_xlabel("stored, MB")
        ax.set_ylabel("loss")
        ax.set_title("What bytes buy")
        legend(ax)

    return panel


def curves(rows: Sequence[Row]) -> Panel:
    """The training loss of each run by step."""

    def panel(ax: Axes) -> None:
        for i, bits in enumerate(sorted({row["bits"] for row in rows}, reverse=True)):
            for j, row in enumerate(r for r in rows if r["bits"] == bits and r["curve"]):
                ax.plot(*zip(*row["curve"], strict=True), lw=0.7, color=colour(i),
                        label="" if j else f"{bits} bits")  # fmt: skip
        ax.set_xlabel("step")
        ax.set_ylabel("training loss")
        ax.set_title("Training")
        if any(row["curve"] for row in rows):
            ax.legend(loc="upper right")

    return panel
