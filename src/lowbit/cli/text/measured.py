"""`lowbit measure` as tables, and the line that says what any prediction is based on. No torch."""

from __future__ import annotations

import math

from rich.table import Table
from rich.text import Text

from lowbit.cli.console import out, say, wrapped
from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.predictors import best_formula
from lowbit.sensitivity.table import Basis, JointDamage, SensitivityTable

MOST_SENSITIVE = 8
"""Sites in the second table."""


def show_table(table: SensitivityTable, tokens: int) -> None:
    """Print the damage of each format by each predictor, then the most sensitive sites."""
    out().print(_predictors(table))
    wrapped(
        f"Damage in nats per {table.unit}, with all block matrices in one format and no training "
        "afterwards. The columns Fisher to G-N are second-order formulas (Taylor: along the actual "
        "rounding error; G-N: Gauss-Newton). KL+1st (KL plus first order) and loss come from "
        f"running the stored model on the calibration text.{_expensive(table)}"
    )
    out().print(_sites(table))
    say(based_on(table.basis, tokens))


def _expensive(table: SensitivityTable) -> str:
    """What the predictors of `--all` are, or how to have them."""
    if all(whole.monte_carlo is None for whole in table.whole.values()):
        return " --all adds Hutchinson and Monte Carlo."
    return " MC (Monte Carlo) runs it with noise." + _hutchinson_spread(table)


def _hutchinson_spread(table: SensitivityTable) -> str:
    """How far Hutchinson's random draws agree."""
    shares = [
        whole.hutchinson_spread / abs(whole.hutchinson)
        for whole in table.whole.values()
        if whole.hutchinson and math.isfinite(whole.hutchinson_spread)
    ]
    if not shares:
        return ""
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    spread = low if low == high else f"{low} to {high}"
    return f" Hutchinson's value varies by ± {spread} % with its random draws."


def based_on(basis: Basis, tokens: int) -> str:
    """The calibration text that was used, whether it was all there is, and the work done."""
    text = f"{basis.units:,} {basis.unit}s of calibration text"
    if basis.unit == "token" and basis.units < 0.9 * tokens:
        text += f" (all there are; {tokens:,} were requested)"
    if basis.documents == 1:
        text += " (one document: its stretches are counted as if independent)"
    return f"{text}; work of {basis.passes:.0f} forward passes over it"


def _predictors(table: SensitivityTable) -> Table:
    """One row per format."""
    page = Table(box=None, padding=(0, 0, 0, 1), title=Text(f"{table.model} · {table.task}"))
    rows = {text: _row(whole) for text, whole in table.whole.items()}
    heads = dict.fromkeys(name for row in rows.values() for name in row)
    for name in ("format", *heads):
        page.add_column(name, justify="left" if name == "format" else "right", no_wrap=True)
    for text, row in rows.items():
        page.add_row(text, *(nats(row[name]) for name in heads))
    return page


def _row(whole: JointDamage) -> dict[str, float]:
    """The gap by every predictor that was asked for."""
    second = {
        "Fisher": whole.fisher,
        "K-FAC": whole.kfac,
        "Hutch.": whole.hutchinson,
        "Taylor": whole.taylor,
        "G-N": whole.gauss_newton,
        "KL+1st": whole.kl,
        "MC": whole.monte_carlo,
    }
    first = whole.first_order
    gaps = {name: first + value for name, value in second.items() if value is not None}
    return {"1st": first, **gaps, "loss": whole.loss}


def _sites(table: SensitivityTable) -> Table:
    """The sites with the most damage per weight, at four bits or the nearest measured format."""
    text = min(table.formats, key=lambda f: abs(bits_of(parse(f)) - 4.25))
    measured = table.sites[0].damages[text].anchored is not None
    predictor = "anchored" if measured else best_formula(text)
    ranked = sorted(
        table.sites, key=lambda s: -getattr(s.damages[text], predictor) / (s.shape[0] * s.shape[1])
    )
    page = Table(box=None, padding=(0, 1), title=Text(f"most sensitive per weight, {text}"))
    # The gain of a rank is measured relative to the smallest rank.
    for name in ("site", "nats", "rank 8 recovers", "gains over rank 4"):
        page.add_column(name, justify="left" if name == "site" else "right", overflow="fold")
    for site in ranked[:MOST_SENSITIVE]:
        effect, rank_columns = site.reach, ("", "")
        if effect is not None and 8 in effect.ranks:
            i = effect.ranks.index(8)
            gain = nats(effect.gains[i] - effect.gains[effect.ranks.index(4)])
            rank_columns = f"{100 * effect.absorbed[text][i]:.0f} %", gain
        page.add_row(site.name, nats(getattr(site.damages[text], predictor)), *rank_columns)
    return page


def nats(value: float) -> str:
    """Short enough for ten columns on an 80-column terminal."""
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.0e}"
