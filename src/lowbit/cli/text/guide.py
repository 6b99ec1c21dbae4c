"""`lowbit guide` as a table of recommendations. No torch."""

from __future__ import annotations

import math

from rich.table import Table
from rich.text import Text

from lowbit.cli.console import out, say, wrapped
from lowbit.cli.text.measured import based_on, nats
from lowbit.sensitivity.guide import Advice, Guide
from lowbit.sensitivity.table import MIN_REMAINING


def show_guide(guide: Guide, tokens: int) -> None:
    """Print the recommended format for each rank and data size, and how it was chosen."""
    table = guide.table
    per_token = table.unit == "token"
    page = Table(box=None, padding=(0, 1), title=Text(f"{table.model} on {table.task}"))
    page.add_column("rank", justify="right")
    for size in guide.sizes:
        page.add_column(f"{size:,} {table.unit}s", justify="left")
    for rank, row in zip(guide.ranks, guide.rows, strict=True):
        page.add_row(str(rank), *(_recommendation(advice, per_token) for advice in row))
    out().print(page)
    raised = "perplexity" if per_token else "the loss"
    wrapped(
        "Each cell is the format of the fewest bits whose damage after training is at most "
        f"{guide.share:g} of the cost of estimating the adapter from that much data (p / 2N nats "
        f"for p parameters), and how much it should raise {raised}."
    )
    wrapped(
        "Damage after training is the measured KL of storing all blocks so, times the share that "
        "the rank cannot recover (K-FAC and Eckart-Young; at least "
        f"{100 * MIN_REMAINING:.0f} % of each matrix). In our studies it was right to a factor "
        "of two. A larger rank costs more to estimate and recovers more, so fewer bits are "
        "enough. More data lowers the estimation cost, so more bits are needed."
    )
    say(based_on(table.basis, tokens))


def _recommendation(advice: Advice, per_token: bool) -> str:
    if not advice.format:
        return "16 bit"
    percent = f"{100 * math.expm1(advice.damage):.2g} %"
    return f"{advice.format} +{percent if per_token else f'{nats(advice.damage)} nats'}"
