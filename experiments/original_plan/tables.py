"""Tables of all metrics files, of their cost, and of predicted and observed gaps. No torch.

A cell is one bit-width at one rank in one set of settings (`pairs`).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from lowbit.core.errors import UserError
from lowbit.core.files import to_json, write_atomic
from lowbit.core.stats import correlation_of_decades, mean_and_spread
from original_plan.pairs import Key, Row, cells, gaps

FIELDS = (
    *("bits", "rank", "seed", "eval_loss", "perplexity", "gradient_norm", "gradient_variance"),
    *("stored_bytes", "trainable", "peak_bytes", "wall_s", "cpu_s", "gpu_s", "model", "task"),
    "settings",
)
UNCORRELATED = (
    "correlation needs three cells with predicted and observed gaps above zero, and gaps "
    "that differ"
)


class Validation(TypedDict):
    """The content of validation.json."""

    cells: list[Row]
    """Every cell with its predicted and observed gap."""
    correlation: float | None
    """Of the gaps' logarithms."""
    correlated: int
    """Number of cells in the correlation: those where both gaps are above zero."""
    why: str
    """Why there is no correlation, or empty."""


def read(results: Path) -> list[Row]:
    """Every `metrics_*.json`, sorted by bits (descending), rank and seed."""
    paths = sorted(results.glob("metrics_*.json"))
    if not paths:
        raise UserError(
            f"{results} holds no metrics_*.json: python experiments/run_experiment.py --bits 16"
        )
    rows = [_row(path) for path in paths]
    # run_ft.py and run_experiment.py may both have written the same run.
    rows = list({(row["fingerprint"], to_json(row["facts"])): row for row in rows}.values())
    return sorted(rows, key=lambda row: (-row["bits"], row["rank"], row["settings"], row["seed"]))


def _row(path: Path) -> Row:
    try:
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        if not {"settings", "declared", "facts"} <= set(row):
            raise UserError(
                f"{path} lacks the settings of its run: an earlier version wrote it. Run its "
                "script again; the finished run is not trained again"
            )
    except (ValueError, TypeError):
        raise UserError(f"{path} is torn: run its script again") from None
    return {**row, "file": path.name}


def write_tables(rows: Sequence[Row], results: Path) -> list[Path]:
    """Write summary.csv (a line per run), summary_table.csv (a line per cell) and cost_log.md."""
    texts = {
        "summary.csv": _csv(FIELDS, [{key: row.get(key) for key in FIELDS} for row in rows]),
        "summary_table.csv": _csv(tuple(_table(rows)[0]), _table(rows)),
        "cost_log.md": _costs(rows),
    }
    for name, text in texts.items():
        write_atomic(results / name, text.encode())
    return [results / name for name in texts]


def _table(rows: Sequence[Row]) -> list[Row]:
    by_cell, table = gaps(rows), []
    for key, runs in cells(rows).items():
        loss = mean_and_spread([run["eval_loss"] for run in runs])
        gap = by_cell.get(key)
        language = all(run["perplexity"] is not None for run in runs)
        table.append(
            {
                "bits": key.bits,
                "rank": key.rank,
                "seeds": len(runs),
                "loss": loss.mean,
                "loss_sd": loss.sd,
                "perplexity": math.exp(loss.mean) if language and loss.mean < 700 else None,
                "gap": None if gap is None else sum(gap) / len(gap),
                "gap_sd": None if gap is None else mean_and_spread(gap).sd,
                "stored_bytes": runs[0]["stored_bytes"],
                "settings": key.settings,
            }
        )
    return table


def _csv(fields: Sequence[str], rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()}
                     for row in rows)  # fmt: skip
    return out.getvalue()


def _costs(rows: Sequence[Row]) -> str:
    heads = ("bits", "rank", "seed", "CPU h", "GPU h", "wall h", "peak MB")
    clocks = ("cpu_s", "gpu_s", "wall_s")
    body = [
        [str(row["bits"]), str(row["rank"]), str(row["seed"]),
         *(f"{row[key] / 3600:.3f}" for key in clocks), f"{row['peak_bytes'] / 1e6:.0f}"]
        for row in rows
    ]  # fmt: skip
    table = [f"| {' | '.join(line)} |" for line in (heads, ["---:"] * len(heads), *body)]
    cpu, gpu, wall = (sum(row[key] for row in rows) / 3600 for key in clocks)
    total = f"In all {cpu:.2f} CPU hours, {gpu:.2f} GPU hours, {wall:.2f} hours."
    return "\n".join(["# What the runs cost", "", *table, "", total]) + "\n"


def write_validation(
    rows: Sequence[Row], predicted: Mapping[Key, float], results: Path
) -> Validation:
    """Write validation.json: predicted and observed gaps by cell, and their correlation."""
    observed = gaps(rows)
    compared = [
        _compare(key, predicted[key], observed[key]) for key in observed if key in predicted
    ]
    pairs = [(cell["predicted"], cell["observed"]) for cell in compared]
    correlation, count = correlation_of_decades(pairs)
    why = "" if correlation is not None else f"{UNCORRELATED}: {count} here"
    body: Validation = {
        "cells": compared, "correlation": correlation, "correlated": count, "why": why
    }  # fmt: skip
    write_atomic(results / "validation.json", (to_json(body) + "\n").encode())
    return body


def _compare(key: Key, predicted: float, observed: Sequence[float]) -> Row:
    mean = sum(observed) / len(observed)
    ratio = predicted / mean if mean else None
    return {**key._asdict(), "seeds": len(observed), "predicted": predicted, "observed": mean,
            "ratio": ratio}  # fmt: skip
