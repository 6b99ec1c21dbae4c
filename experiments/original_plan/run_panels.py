"""Panels of what was measured: losses, gradients, bytes, training. A colour a rank, or a bit-width.

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
    """What the runs of one rank and settings came to: one number a seed, by bit-width."""

    label: str
    values: dict[int, list[float]]

    @property
    def means(self) -> dict[int, float]:
        return {bits: sum(found) / len(found) for bits, found in self.values.items()}


def data(rows: Sequence[Row], key: str) -> list[Series]:
    """A series for every rank and settings, in the order of `series`; runs without it left out."""
    found = []
    around = cells(rows)
    for (rank, settings), label in series(rows).items():
        mine = {
            at.bits: [run[key] for run in runs if run.get(key) is not None]
            for at, runs in sorted(around.items())
            if (at.rank, at.settings) == (rank, settings)
        }
        found.append(Series(label, {bits: values for bits, values in mine.items() if values}))
    return found


def by_bits(rows: Sequence[Row], key: str, title: str, name: str) -> Panel:
    """Means over seeds, a line a series, small dots the seeds."""

    def panel(ax: Axes) -> None:
        for i, one in enumerate(data(rows, key)):
            for bits, values in one.values.items():
                ax.plot([bits] * len(values), values, ".", ms=3, color=colour(i), alpha=0.5)
            means = one.means
            ax.plot(list(means), list(means.values()), marker="o", ms=3, color=colour(i),
                    ls=dash(i), label=one.label)  # fmt: skip
        bits_axis(ax, [row["bits"] for row in rows])
        ax.set_ylabel(name)
        ax.set_title(title)
        legend(ax)

    return panel


def bits_axis(ax: Axes, bits: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ticks = sorted(set(bits))
    ax.set_xticks(ticks, [str(b) for b in ticks])
    ax.minorticks_off()
    ax.set_xlabel("bits")


def legend(ax: Axes) -> None:
    """In room of its own above what is drawn; nothing where nothing is named."""
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
    """Means over seeds, a bar a rank beside the others of its bit-width, dots the seeds."""

    def panel(ax: Axes) -> None:
        bits, found = sorted({row["bits"] for row in rows}, reverse=True), data(rows, key)
        width = 0.84 / len(found)
        for i, one in enumerate(found):
            places = {b: bits.index(b) + (i - (len(found) - 1) / 2) * width for b in one.values}
            ax.bar([places[b] for b in one.values], list(one.means.values()), width * 0.92,
                   color=colour(i), label=one.label)  # fmt: skip
            for b, values in one.values.items():
                ax.plot([places[b]] * len(values), values, "o", ms=2.2, color="white", mec=INK,
                        mew=0.5)  # fmt: skip
        ax.set_xticks(range(len(bits)), [str(b) for b in bits])
        ax.set_xlabel("bits")
        ax.set_ylabel(name)
        ax.set_title(title)
        legend(ax)
        silent = sum(row.get(key) is None for row in rows)
        if silent:
            said = f"not logged by {silent} of {len(rows)} runs"
            ax.text(0.02, 0.97, said, transform=ax.transAxes, va="top", fontsize=6, color=INK)

    return panel


def bytes_and_loss(rows: Sequence[Row]) -> Panel:
    def panel(ax: Axes) -> None:
        for i, bits in enumerate(sorted({row["bits"] for row in rows}, reverse=True)):
            mine = [(r["stored_bytes"] / 1e6, r["eval_loss"]) for r in rows if r["bits"] == bits]
            ax.plot(*zip(*mine, strict=True), "o", ms=3, color=colour(i), label=f"{bits} bits")
        ax.set_xlabel("stored, MB")
        ax.set_ylabel("loss")
        ax.set_title("What bytes buy")
        legend(ax)

    return panel


def curves(rows: Sequence[Row]) -> Panel:
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
