"""`lowbit measure` in words, and what `predict`, `guide` and `plan` say as it does. No torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lowbit.cli.console import out, say, wrapped
from lowbit.core.execution import Execution
from lowbit.core.files import write_atomic
from lowbit.core.progress import phases
from lowbit.core.spec import RunSpec
from lowbit.quant.formats import bits_of, parse
from lowbit.runs.workers.process import call, orphaned
from lowbit.sensitivity.predictors import best_formula
from lowbit.sensitivity.table import (
    Basis,
    Calibration,
    JointDamage,
    MeasureRequest,
    SensitivityTable,
    to_text,
)

MOST_SENSITIVE = 8


def measure(
    spec: RunSpec,
    execution: Execution,
    formats: Sequence[str],
    tokens: int,
    walk: bool,
    to: Path | None,
    at: Path | None,
) -> None:
    """Measure, or recall; then show what each predictor says of every format."""
    for text in formats:
        parse(text)
    request = MeasureRequest(tuple(formats), walk=walk, costed=True)
    table: SensitivityTable = call(measured, spec, execution, request, tokens, at, shown())
    out().print(_predictors(table))
    wrapped(
        f"Nats a {table.unit}, all block matrices in one format, no training after it. Second "
        "order: Fisher, K-FAC, Hutchinson, Taylor at the real error, Gauss-Newton. Measured by "
        "running the stored model on the calibration text: KL + first order, Monte Carlo, and the "
        f"loss itself.{_drawn(table)}"
    )
    out().print(_sites(table))
    say(worked(table.basis, tokens))
    if to is not None:
        write_atomic(to, to_text(table).encode())
        say(f"written  {to}")


def _drawn(table: SensitivityTable) -> str:
    """How far Hutchinson's draws agree."""
    parts = [
        whole.hutchinson_spread / abs(whole.hutchinson)
        for whole in table.whole.values()
        if whole.hutchinson and math.isfinite(whole.hutchinson_spread)
    ]
    if not parts:
        return ""
    low, high = (f"{100 * share:.0f}" for share in (min(parts), max(parts)))
    return (
        f" Hutchinson's draws alone leave ± {low if low == high else f'{low} to {high}'} % of it."
    )


def worked(basis: Basis, tokens: int) -> str:
    """What a table rests on, how much of what was asked for that is, and what it cost."""
    text = f"{basis.units:,} {basis.unit}s of calibration text"
    if basis.unit == "token" and basis.units < 0.9 * tokens:
        text += f", all there are of the {tokens:,} asked for"
    if basis.documents == 1:
        text += " (one document: its stretches are counted as if independent)"
    return f"{text}; work of {basis.passes:.0f} forward passes over it"


def measured(
    spec: RunSpec,
    execution: Execution,
    request: MeasureRequest,
    tokens: int,
    at: Path | None,
    tell: bool,
) -> SensitivityTable:
    """Measure; runs in a process of its own."""
    from lowbit.runs import device
    from lowbit.runs.prepare import prepare_run
    from lowbit.sensitivity import measure

    device.open_machine(execution, "fp32")
    calibration = Calibration(tokens, at)
    on_progress = phases(tell, stop=orphaned)
    return measure.sensitivity_table(prepare_run(spec), request, calibration, on_progress)


def shown() -> bool:
    """Whether anybody sees how far it is."""
    return sys.stderr.isatty()


# --- tables ---------------------------------------------------------------------------------------


def _predictors(table: SensitivityTable) -> Table:
    """A row a format."""
    page = Table(box=None, padding=(0, 1), title=Text(f"{table.model} · {table.task}"))
    heads = ("format", "1st", "Fisher", "K-FAC", "Hutch.", "Taylor", "G-N", "KL+1st", "MC", "loss")
    for name in heads:
        page.add_column(name, justify="left" if name == "format" else "right",
                        no_wrap=name != "format", overflow="fold")  # fmt: skip
    for text, whole in table.whole.items():
        page.add_row(text, *(nats(value) for value in _row(whole)))
    return page


def _row(whole: JointDamage) -> tuple[float, ...]:
    first = whole.first_order
    return (
        first,
        first + whole.fisher,
        first + whole.kfac,
        first + (whole.hutchinson or 0.0),
        first + whole.taylor,
        first + whole.gauss_newton,
        first + whole.kl,
        first + (whole.monte_carlo or 0.0),
        whole.loss,
    )


def _sites(table: SensitivityTable) -> Table:
    """The sites that four bits, or the nearest to it that was measured, would hurt most."""
    text = min(table.formats, key=lambda f: abs(bits_of(parse(f)) - 4.25))
    predictor = best_formula(text)
    ranked = sorted(
        table.sites, key=lambda s: -getattr(s.damages[text], predictor) / (s.shape[0] * s.shape[1])
    )
    page = Table(box=None, padding=(0, 1), title=Text(f"most sensitive a byte, {text}"))
    # What a rank wins is known beside the least rank only.
    for name in ("site", "nats", "rank 8 takes back", "wins over 4"):
        page.add_column(name, justify="left" if name == "site" else "right", overflow="fold")
    for site in ranked[:MOST_SENSITIVE]:
        reach, does = site.reach, ("", "")
        if reach is not None and 8 in reach.ranks:
            at = reach.ranks.index(8)
            won = nats(reach.gains[at] - reach.gains[reach.ranks.index(4)])
            does = f"{100 * reach.absorbed[text][at]:.0f} %", won
        page.add_row(site.name, nats(getattr(site.damages[text], predictor)), *does)
    return page


def nats(value: float) -> str:
    """Short enough for nine columns of a narrow terminal."""
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.0e}"
