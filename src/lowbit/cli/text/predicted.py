"""`lowbit predict` as tables and sentences. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from lowbit.cli.console import out, say, wrapped
from lowbit.cli.text.measured import based_on, nats
from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.predictors import (
    NAMES,
    PlanPredictions,
    best_formula_at,
    predictions,
    remaining_share,
)
from lowbit.sensitivity.table import MIN_REMAINING, SensitivityTable


def show_predictions(forecast: PlanPredictions, tokens: int) -> None:
    """Print the predicted gap of each plan, by every predictor, and what training should leave."""
    table = forecast.table
    for plan in forecast.plans:
        out().print(_prediction(table, plan.name, plan.formats))
        wrapped(_too_little_text(table, plan.name))
        wrapped(_after_training(table, plan.name, plan.formats, plan.ranks))
    wrapped(
        "The gap is the loss above the same model in 16 bits. The 95 % interval is for other "
        "documents; it does not cover what a formula neglects. * marks the formula that was most "
        "accurate at these bits. Rows marked 'run' ran the stored model on calibration text and "
        "are more accurate than any formula."
    )
    say(based_on(table.basis, tokens))


def _prediction(table: SensitivityTable, name: str, formats: Mapping[str, str]) -> Table:
    page = Table(box=None, padding=(0, 1), title=Text(f"{name} on {table.task}"))
    for head in ("predictor", "gap, nats", "95 %", "perplexity by", ""):
        page.add_column(head, justify="left" if head in ("predictor", "") else "right",
                        no_wrap=head != "predictor")  # fmt: skip
    fewest_bits = min((bits_of(parse(text)) for text in formats.values()), default=16.0)
    recommended = best_formula_at(fewest_bits)
    perplexity = math.exp(min(50.0, table.loss))
    for key, prediction in predictions(table.whole[name]).items():
        low, middle, high = (
            perplexity * math.expm1(min(50.0, gap))
            for gap in (prediction.low, prediction.gap, prediction.high)
        )
        page.add_row(
            NAMES[key],
            nats(prediction.gap),
            f"{nats(prediction.low)} to {nats(prediction.high)}",
            f"{middle:+.3g} ({low:+.2g} to {high:+.2g})" if table.unit == "token" else "",
            ("run" if prediction.runs_model else "theory") + " *" * (key == recommended),
        )
    return page


def _too_little_text(table: SensitivityTable, name: str) -> str:
    """A warning where the gap is smaller than its error, with the text that would be enough."""
    prediction = predictions(table.whole[name])["kl"]
    resolution = 1.96 * prediction.spread
    if not 0 < abs(prediction.gap) < resolution:
        return ""
    needed = table.units * (resolution / prediction.gap) ** 2
    enough = (
        f"About {needed:,.0f} {table.unit}s would be enough."
        if needed < 1e9
        else "No realistic amount of text would be enough."
    )
    return (
        f"TOO LITTLE CALIBRATION TEXT: with {table.units:,} {table.unit}s the gap is known to "
        f"± {nats(resolution)} nats, more than the gap itself. {enough}"
    )


def _after_training(
    table: SensitivityTable, name: str, formats: Mapping[str, str], ranks: Mapping[str, int]
) -> str:
    """The gap that should remain after training at the plan's ranks."""
    whole, share = table.whole[name], remaining_share(table, formats, ranks, MIN_REMAINING)
    if not any(ranks.values()) or not formats:
        return ""
    expected = share * whole.kl
    fewest_bits = min(bits_of(parse(text)) for text in formats.values())
    # In the bounds study ternary adapters lost 0.042 nats where this predicts 0.25.
    factor, accuracy = (
        (2, "right to a factor of two")
        if fewest_bits >= 2
        else (6, "up to six times too high below 2 bits")
    )
    low, high = expected / factor, 2 * expected
    percent = ""
    if table.unit == "token":
        low_percent, high_percent = (f"{100 * math.expm1(gap):.2g}" for gap in (low, high))
        percent = f" ({low_percent} to {high_percent} % of perplexity)"
    return (
        f"After training at these ranks about {nats(expected)} nats of the gap should remain, "
        f"between {nats(low)} and {nats(high)}{percent}. That is {100 * share:.0f} % of it by "
        f"K-FAC and Eckart-Young, with at least {100 * MIN_REMAINING:.0f} % for each matrix. In "
        f"our studies this share was {accuracy}."
    )
