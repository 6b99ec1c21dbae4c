"""What both analysis scripts do: read metrics files, write tables, predict gaps, compare them."""

from __future__ import annotations

import sys
from pathlib import Path

from lowbit import LowbitError
from original_plan.arguments import parser
from original_plan.pairs import Key, Row, setting_differences, unpaired
from original_plan.predicted_gaps import predict_gaps
from original_plan.tables import Validation, read, write_tables, write_validation


def analyze(doc: str | None) -> tuple[list[Row], dict[Key, float], Path]:
    """All rows, the predicted gap of each cell, and the folder of results."""
    options = parser(doc)
    options.add_argument("--no-theory", action="store_true", help="predict nothing")
    options.add_argument("--tokens", type=int, default=4096, help="of calibration text")
    arguments = options.parse_args()
    try:
        rows = read(arguments.results)
    except LowbitError as error:
        sys.exit(f"error: {error}")
    for line in (*setting_differences(rows), *unpaired(rows)):
        print(line)
    for path in write_tables(rows, arguments.results):
        print(f"table    {path}")
    predicted = {}
    if not arguments.no_theory:
        predicted = predict_gaps(rows, arguments.results, arguments.tokens, _warn)
    validation = write_validation(rows, predicted, arguments.results)
    _print_correlation(validation, arguments.no_theory)
    return rows, predicted, arguments.results


def _print_correlation(validation: Validation, no_theory: bool) -> None:
    if validation["correlation"] is not None:
        print(
            "correlation of predicted and observed gaps (logarithms): "
            f"{validation['correlation']:.3f}, "
            f"{validation['correlated']} of {len(validation['cells'])} cells"
        )
    elif not no_theory:
        print(validation["why"])


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
