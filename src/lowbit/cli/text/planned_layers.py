"""`lowbit plan`: the formats and ranks that a plan gives its matrices. No torch."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from lowbit.cli.text.measured import nats
from lowbit.planner.knapsack import Option, Solution

MOST_ROWS = 40
"""A plan with more matrices is shown by format; its file names every matrix."""


def layers(solution: Solution) -> Table:
    """A row per matrix, or in a larger model a row per format and rank."""
    if len(solution.options) > MOST_ROWS:
        return _by_format(solution)
    page = _table("site", "format", "rank", "bytes", "predicted")
    for option in solution.options:
        page.add_row(
            option.site, option.format, str(option.rank), f"{option.stored:,}", nats(option.cost)
        )
    return page


def _by_format(solution: Solution) -> Table:
    """Formats and ranks by their bytes, with the kinds of matrices that have them."""
    groups: dict[tuple[str, int], list[Option]] = {}
    for option in solution.options:
        groups.setdefault((option.format, option.rank), []).append(option)
    page = _table("format", "rank", "matrices", "bytes", "predicted", "which")
    for (text, rank), options in sorted(
        groups.items(), key=lambda item: -sum(option.stored for option in item[1])
    ):
        kinds = Counter(option.site.rpartition(".")[2] for option in options)
        page.add_row(
            text,
            str(rank),
            str(len(options)),
            f"{sum(option.stored for option in options):,}",
            nats(sum(option.cost for option in options)),
            ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()),
        )
    return page


def _table(*names: str) -> Table:
    page = Table(box=None, padding=(0, 1))
    for name in names:
        words = name in ("site", "format", "which")
        page.add_column(name, justify="left" if words else "right", overflow="fold",
                        no_wrap=name not in ("site", "which"))  # fmt: skip
    return page
