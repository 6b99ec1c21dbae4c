"""`lowbit measure` and `lowbit plan`: what is known before a run, in words. No torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lowbit.engines.process import call
from lowbit.errors import UserError
from lowbit.files import write_atomic
from lowbit.freezing import to_toml
from lowbit.looking import out, say
from lowbit.plan.search import Solution
from lowbit.quant.formats import parse
from lowbit.sensitivity import SensitivityTable, Whole, to_text, trusted
from lowbit.spec import Execution, RunSpec

FORMATS = ("int8@64", "int6@64", "int5@64", "int4@64", "nf4@64", "int3@64", "int2@64", "ternary@64")
RANKS = (4, 8, 16, 32)
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

    return table_of(spec, execution, Asked(formats, walk=walk), tokens, _teller(shown))


def _teller(shown: bool) -> Callable[[str, int, int], None]:
    """Says on the terminal how far a measurement is, and wipes it at the end."""

    def told(what: str, done: int, total: int) -> None:
        if shown:
            said = f"{what}: {done} of {total}" if done < total else ""
            sys.stderr.write(f"\r{said:40}\r")

    return told


def plan(spec: RunSpec, execution: Execution, wanted: tuple[Any, ...], to: Path) -> None:
    """Solve for a budget, show what came out, and write it as a plan's file."""
    if to.suffix != ".toml":
        raise UserError(f"{to}: a plan's file ends in .toml")
    found = call(solved, spec, execution, wanted, sys.stderr.isatty())
    best, budget = found.candidates[0], wanted[0]
    out().print(_candidates(found))
    say("Loss: untrained, on the selection part, which nothing was costed on. Predicted: gap after")
    say("training, of second order. The first line is what is written.")
    out().print(_layers(best.solution))
    gap = next(c.solution.gap for c in found.candidates if c.solution.bound > -math.inf)
    size = f"{best.solution.stored + found.other:,} of {budget:,} bytes"
    say(f"{size}; at most {gap:.2g} nats from the best there is, as predicted")
    if found.whole:
        say("the budget holds the whole model in 16 bits at the largest rank")
    write_atomic(to, to_toml(best.plan).encode())
    say(f"written  {to}: lowbit adapt {spec.model} --task {spec.task.name} --plan {to}")


def solved(spec: RunSpec, execution: Execution, wanted: tuple[Any, ...], shown: bool) -> Any:
    """In a process of its own."""
    from lowbit.planning import Wanted, planned

    return planned(spec, execution, Wanted(*wanted), _teller(shown))


def _candidates(found: Any) -> Table:
    page = Table(box=None, padding=(0, 1))
    for name in ("plan", "bytes", "predicted gap", "loss", "above 16 bit"):
        page.add_column(name, justify="left" if name == "plan" else "right")
    for one in found.candidates:
        size = f"{one.solution.stored + found.other:,}"
        page.add_row(one.plan.name, size, _nats(one.solution.cost), f"{one.loss:.4f}",
                     f"{one.loss - found.sixteen:+.4f}")  # fmt: skip
    return page


def _layers(solution: Solution) -> Table:
    """A row a site."""
    page = Table(box=None, padding=(0, 1))
    for name in ("site", "format", "rank", "bytes", "predicted"):
        page.add_column(name, justify="left" if name in ("site", "format") else "right",
                        overflow="fold", no_wrap=name != "site")  # fmt: skip
    for o in solution.options:
        page.add_row(o.site, o.format, str(o.rank), f"{o.stored:,}", _nats(o.cost))
    return page


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
