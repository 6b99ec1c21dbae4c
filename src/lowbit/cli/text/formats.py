"""`lowbit formats` as a table. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lowbit.cli.console import out, wrapped
from lowbit.sensitivity.compare_formats import FormatFacts


def show_formats(facts: Sequence[FormatFacts]) -> None:
    """One row per format; * marks those that no smaller format beats."""
    page = Table(box=None, padding=(0, 1))
    for name in ("format", "bits per weight", "levels", "error", "over optimum", ""):
        page.add_column(name, justify="left" if name in ("format", "") else "right", no_wrap=True)
    for each in facts:
        best = not any(other.bits <= each.bits and other.error < each.error for other in facts)
        page.add_row(
            each.format,
            f"{each.bits:.3f}",
            str(each.levels),
            f"{100 * each.error:.3g} %",
            f"{each.over_optimum:.1f} x",
            "*" if best else "",
        )
    out().print(page)
    wrapped(
        "Error: mean squared rounding error over the variance of Gaussian weights, with exact "
        "scales; bits per weight include scales. Over optimum: that error over 4^-bits, the limit "
        "for any code of these bits. * marks formats that no smaller one beats. What an error "
        "costs a model depends on the layer: `lowbit measure MODEL --task TASK` measures it."
    )
