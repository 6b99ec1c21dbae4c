"""`lowbit measure`: what is known of a model before a run, as a person reads it. No torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lowbit.engines.process import call
from lowbit.files import write_atomic
from lowbit.looking import out, say
from lowbit.quant.formats import parse
from lowbit.sensitivity import SensitivityTable, Whole, to_text, trusted
from lowbit.spec import Execution, RunSpec

FORMATS = ("int8@64", "int6@64", "int5@64", "int4@64", "nf4@64", "int3@64", "int2@64", "ternary@64")
MOST_SENSITIVE = 8


def measure(
    spec: RunSpec,
    execution: Execution,
    formats: Sequence[str],
    tokens: int,
    walk: bool,
    to: Path | None,
) -> None:
    """Measure, or recall; then show what each predictor says of every format."""
    for text in formats:
        parse(text)
    shown = sys.stderr.isatty()
    table: SensitivityTable = call(measured, spec, execution, tuple(formats), tokens, walk, shown)
    out().print(_predictors(table))
    say("Nats a token, all block matrices in one format, the base untrained. Kept by second order:")
    say(
        "Fisher, K-FAC, Hutchinson, Taylor at the real error, Gauss-Newton. Measured by running the"
    )
    say("stored model on the calibration text: KL + first order, Monte Carlo, and the loss itself.")
    out().print(_sites(table))
    say(f"{table.tokens:,} tokens of calibration text; work of {table.passes:.0f} forward passes")
    if to is not None:
        write_atomic(to, to_text(table).encode())
        say(f"written  {to}")


def measured(
    spec: RunSpec,
    execution: Execution,
    formats: tuple[str, ...],
    tokens: int,
    walk: bool,
    shown: bool,
) -> Any:
    """In a process of its own."""
    from lowbit.measure import Asked
    from lowbit.measuring import table_of

    def told(what: str, done: int, total: int) -> None:
        if shown:
            sys.stderr.write(f"\r{what}: {done} of {total}   ")

    found = table_of(spec, execution, Asked(formats, walk=walk), tokens, told)
    if shown:
        sys.stderr.write("\r" + 40 * " " + "\r")
    return found


def _predictors(table: SensitivityTable) -> Table:
    """A row a format."""
    page = Table(box=None, padding=(0, 1), title=Text(f"{table.model} · {table.task}"))
    heads = ("format", "1st", "Fisher", "K-FAC", "Hutch.", "Taylor", "G-N", "KL+1st", "MC", "loss")
    for name in heads:
        page.add_column(name, justify="left" if name == "format" else "right", no_wrap=True)
    for text, whole in table.whole.items():
        page.add_row(text, *(_nats(value) for value in _row(table, text, whole)))
    return page


def _row(table: SensitivityTable, text: str, whole: Whole) -> tuple[float, ...]:
    blocks = {site.name: text for site in table.sites if site.reach is not None}
    first = whole.first_order
    return (
        first,
        first + table.damage(blocks, "fisher"),
        first + table.damage(blocks, "kfac"),
        first + whole.hutchinson,
        first + whole.taylor,
        first + whole.gauss_newton,
        first + whole.kl,
        first + whole.monte_carlo,
        whole.loss,
    )


def _sites(table: SensitivityTable) -> Table:
    """The sites that four bits or the fewest measured would hurt most."""
    text = next((f for f in ("int4@64", "nf4@64") if f in table.formats), table.formats[-1])
    predictor = trusted(text)
    ranked = sorted(
        table.sites, key=lambda s: -getattr(s.damages[text], predictor) / (s.shape[0] * s.shape[1])
    )
    page = Table(box=None, padding=(0, 1), title=Text(f"most sensitive a byte, {text}"))
    for name in ("site", "nats", "of rank 8 absorbed"):
        page.add_column(name, justify="left" if name == "site" else "right", overflow="fold")
    for site in ranked[:MOST_SENSITIVE]:
        reach = site.reach
        share = (
            ""
            if reach is None or 8 not in reach.ranks
            else (f"{100 * reach.absorbed[text][reach.ranks.index(8)]:.0f} %")
        )
        page.add_row(site.name, _nats(getattr(site.damages[text], predictor)), share)
    return page


def _nats(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.1e}"
