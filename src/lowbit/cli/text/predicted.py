"""`lowbit predict` and `guide`: predictions as tables and sentences. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lowbit.cli.console import out, say, wrapped
from lowbit.cli.text.measured import measured, nats, shown, worked
from lowbit.core.execution import Execution
from lowbit.core.progress import phases
from lowbit.core.spec import RunSpec
from lowbit.quant.formats import bits_of, parse
from lowbit.runs.workers.process import call, orphaned
from lowbit.sensitivity.by_name import FORMATS, RANKS, unique_names
from lowbit.sensitivity.guide import Advice, advice
from lowbit.sensitivity.predictors import (
    NAMES,
    PlanPredictions,
    best_formula_at,
    predictions,
    remaining_share,
)
from lowbit.sensitivity.table import (
    MIN_REMAINING,
    Calibration,
    MeasureRequest,
    SensitivityTable,
)

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


def predict(
    specs: Mapping[str, RunSpec], execution: Execution, tokens: int, at: Path | None
) -> None:
    """The gap that each plan will have, by predictor, before anything is trained or stored.

    `specs` by the words that their plans were asked for in.
    """
    forecast: PlanPredictions = call(predicted, unique_names(specs), execution, tokens, at, shown())
    table = forecast.table
    for plan in forecast.plans:
        name, formats, ranks = plan.name, plan.formats, plan.ranks
        out().print(_prediction(table, name, formats))
        if unsure := _unsure(table, name):
            wrapped(unsure)
        if later := _afterwards(table, name, formats, ranks):
            wrapped(later)
    wrapped(
        "Gap to the same model in 16 bits, with 95 % of what other calibration documents would "
        "say; what a formula leaves out is in no interval. * is the closed form to trust at these "
        "bits; what was run on calibration text is no theory, and the best there is."
    )
    say(worked(table.basis, tokens))


def predicted(
    specs: dict[str, RunSpec], execution: Execution, tokens: int, at: Path | None, tell: bool
) -> PlanPredictions:
    """Predict the plans; runs in a process of its own."""
    from lowbit.runs import device
    from lowbit.runs.prepare import prepare_run
    from lowbit.sensitivity.predict import predict_plans

    device.open_machine(execution, "fp32")
    first = next(iter(specs.values()))
    plans = {name: spec.plan for name, spec in specs.items()}
    on_progress = phases(tell, stop=orphaned)
    return predict_plans(prepare_run(first), plans, Calibration(tokens, at), on_progress)


def _prediction(table: SensitivityTable, name: str, formats: dict[str, str]) -> Table:
    page = Table(box=None, padding=(0, 1), title=Text(f"{name} on {table.task}"))
    for head in ("predictor", "gap, nats", "95 %", "perplexity by", ""):
        page.add_column(head, justify="left" if head in ("predictor", "") else "right",
                        no_wrap=head != "predictor")  # fmt: skip
    few = min((bits_of(parse(text)) for text in formats.values()), default=16.0)
    believed = best_formula_at(few)
    for key, one in predictions(table.whole[name]).items():
        now = math.exp(min(50.0, table.loss))
        low, risen, high = (now * math.expm1(min(50.0, g)) for g in (one.low, one.gap, one.high))
        page.add_row(
            NAMES[key], nats(one.gap), f"{nats(one.low)} to {nats(one.high)}",
            f"{risen:+.3g} ({low:+.2g} to {high:+.2g})" if table.unit == "token" else "",
            ("run" if one.runs_model else "theory") + " *" * (key == believed),
        )  # fmt: skip
    return page


def _unsure(table: SensitivityTable, name: str) -> str:
    """Where the calibration text cannot tell a gap from none: how much of it could."""
    one = predictions(table.whole[name])["kl"]
    resolution = 1.96 * one.spread
    if not 0 < abs(one.gap) < resolution:
        return ""
    needed = table.units * (resolution / one.gap) ** 2
    enough = f"about {needed:,.0f} {table.unit}s would" if needed < 1e9 else "no text would"
    return (
        f"TOO LITTLE CALIBRATION TEXT for this: {table.units:,} {table.unit}s give the gap to "
        f"± {nats(resolution)} nats, which is more than there is of it; {enough} resolve it."
    )


def _afterwards(
    table: SensitivityTable, name: str, formats: Mapping[str, str], ranks: Mapping[str, int]
) -> str:
    """What training at the plan's ranks is expected to leave."""
    whole, share = table.whole[name], remaining_share(table, formats, ranks, MIN_REMAINING)
    if not any(ranks.values()) or not formats:
        return ""
    least = share * whole.kl
    few = min(bits_of(parse(text)) for text in formats.values())
    # Six times in the bounds study, whose ternary adapters lost 0.042 nats where this says 0.25.
    lower, history = (2, "off by a factor of two") if few >= 2 else (6, "six times too high so low")
    low, high = least / lower, 2 * least
    worse = ""
    if table.unit == "token":
        low_risen, high_risen = (f"{100 * math.expm1(gap):.2g}" for gap in (low, high))
        worse = f" ({low_risen} to {high_risen} % of perplexity)"
    return (
        f"After training at its ranks about {nats(least)} nats of it are expected to be left "
        f"({100 * share:.0f} % of the second order by K-FAC and Eckart-Young, never less than "
        f"{100 * MIN_REMAINING:.0f} % of a matrix's), anything from {nats(low)} to {nats(high)}"
        f"{worse}: that share has been {history}."
    )


# --- guide ----------------------------------------------------------------------------------------


def guide(
    spec: RunSpec,
    execution: Execution,
    sizes: Sequence[int],
    share: float,
    tokens: int,
    at: Path | None,
) -> None:
    """Rank x data size -> precision, from this model's own measurements."""
    request = MeasureRequest(FORMATS, RANKS, samples=0, uniform=False, exact=False, costed=True)
    table: SensitivityTable = call(measured, spec, execution, request, tokens, at, shown())
    rows = [[advice(table, rank, size, share, FORMATS) for size in sizes] for rank in RANKS]
    page = Table(box=None, padding=(0, 1), title=Text(f"{table.model} on {table.task}"))
    page.add_column("rank", justify="right")
    for size in sizes:
        page.add_column(f"{size:,} {table.unit}s", justify="left")
    for rank, row in zip(RANKS, rows, strict=True):
        page.add_row(str(rank), *(_advised(one, table.unit == "token") for one in row))
    out().print(page)
    wrapped(
        f"The fewest bits whose damage, after what the rank takes back, is at most {share:g} of "
        "what estimating the adapter from so much data costs (p / 2N nats for p free numbers); "
        f"and how much it is expected to raise {_raised(table)}: the KL that storing all blocks so "
        "has on calibration text, times the share that the rank leaves by K-FAC and Eckart-Young, "
        f"never less than {100 * MIN_REMAINING:.0f} % of a matrix's, which has been off by a "
        "factor of two. More rank costs more to estimate and takes more damage back: it allows "
        "fewer bits. More data allows fewer mistakes: it asks for more bits."
    )
    say(worked(table.basis, tokens))


def _advised(one: Advice, tokens: bool) -> str:
    if not one.format:
        return "16 bit"
    amount = f"{100 * math.expm1(one.damage):.2g} %" if tokens else f"{nats(one.damage)} nats"
    return f"{one.format} +{amount}"


def _raised(table: SensitivityTable) -> str:
    return "perplexity" if table.unit == "token" else "the loss"
