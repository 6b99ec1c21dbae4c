"""Tables, and predictions beside what came out."""

from __future__ import annotations

import sys
from pathlib import Path

from lowbit.core.errors import LowbitError
from original_plan.arguments import parser
from original_plan.pairs import Key, Row, described, unpaired
from original_plan.predicted_gaps import foreseen
from original_plan.tables import read, write_tables, write_validation


def analysed(doc: str | None) -> tuple[list[Row], dict[Key, float], Path]:
    """All rows, the gap predicted in each cell, and where results lie."""
    words = parser(doc)
    words.add_argument("--no-theory", action="store_true", help="predict nothing")
    words.add_argument("--tokens", type=int, default=4096, help="of calibration text")
    said = words.parse_args()
    try:
        rows = read(said.results)
    except LowbitError as error:
        sys.exit(f"error: {error}")
    for line in (*described(rows), *unpaired(rows)):
        print(line)
    for path in write_tables(rows, said.results):
        print(f"table    {path}")
    predicted = {} if said.no_theory else foreseen(rows, said.results, said.tokens, _warn)
    found = write_validation(rows, predicted, said.results)
    if found["correlation"] is not None:
        print(
            "correlation of predicted and observed gaps (logarithms): "
            f"{found['correlation']:.3f}, {found['correlated']} of {len(found['cells'])} cells"
        )
    elif not said.no_theory:
        print(found["why"])
    return rows, predicted, said.results


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
