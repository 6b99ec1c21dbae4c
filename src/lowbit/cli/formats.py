"""`lowbit formats`."""

from __future__ import annotations

from typing import Annotated

import typer

from lowbit.cli.options import guarded


@guarded
def formats(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FORMAT]...", help="Formats like nf4@64; default: the common ones."
        ),
    ] = None,
    columns: Annotated[
        int, typer.Option(min=1, help="Columns of the matrix; only @row formats depend on it.")
    ] = 1024,
) -> None:
    """Compare formats by bits per weight and rounding error, without any model.

    Example: lowbit formats nf4@64 int4@64 int4@32
    """
    from lowbit.cli.text.formats import show_formats
    from lowbit.sensitivity.compare_formats import COMPARED, compare_formats

    show_formats(compare_formats(names or COMPARED, columns))
