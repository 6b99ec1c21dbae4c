"""Gain of every plan of a part over the part's control.

Points are gains averaged over seeds. Bars are 95 % intervals, from resampling seeds and documents
together. A plan to the right of the line is better than the control. The figure is exploratory: the
intervals are not corrected for the number of plans.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes

from lowbit.report.figures.style import COLOURS, GREY, INK, plain
from lowbit.study.cells import Setting
from lowbit.study.pairing import gain_over


@dataclass(frozen=True)
class Effect:
    """The gain of one plan over the control, in nats or points."""

    plan: str
    gain: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Forest:
    """All effects of one setting."""

    control: str
    unit: str
    effects: tuple[Effect, ...]


def data(setting: Setting, control: str) -> Forest:
    """Every other plan of the setting that has a seed in common with the control."""
    scale, unit = (1.0, "nats") if setting.metric == "loss" else (100.0, "points")
    effects = []
    for cell in setting.cells:
        comparison = None if cell.plan == control else gain_over(setting, cell.plan, control)
        if comparison is not None:
            gain, low, high = (
                scale * v for v in (comparison.estimate, comparison.low, comparison.high)
            )
            effects.append(Effect(cell.plan, gain, low, high, comparison.seeds))
    return Forest(control, unit, tuple(effects))


def height(data: Forest) -> float:
    return 0.9 + 0.26 * max(1, len(data.effects))


def draw(ax: Axes, data: Forest) -> None:
    """Draw gains and intervals, with names at the left and numbers at the right."""
    ax.axvline(0, color=GREY, lw=0.8, zorder=1)
    for i, effect in enumerate(data.effects):
        significant = effect.low > 0 or effect.high < 0
        ax.plot(
            [effect.low, effect.high], [i, i], color=COLOURS[1] if significant else GREY, lw=1.6
        )
        ax.plot(
            [effect.gain],
            [i],
            "o",
            ms=5,
            mfc=COLOURS[1] if significant else "white",
            mec=COLOURS[1],
        )
        label = f"{effect.gain:+.3g} [{effect.low:+.3g}, {effect.high:+.3g}]"
        ax.annotate(label, (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=7.5,
                    color=INK)  # fmt: skip
    ax.set_yticks(range(len(data.effects)), [plain(e.plan) for e in data.effects])
    ax.set_ylim(len(data.effects) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"better than {plain(data.control)}, {data.unit}  →")
