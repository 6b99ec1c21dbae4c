"""All metrics files as tables, what they cost, and predictions beside what came out. No torch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowbit.errors import UserError
from lowbit.files import to_json, write_atomic
from lowbit.stats import mean_and_spread

Row = dict[str, Any]
FORESEEN = "foreseen.json"
"""Predicted gaps by bits, where a study had predicted them."""
FIELDS = (
    *("bits", "rank", "seed", "eval_loss", "perplexity", "gradient_norm", "gradient_variance"),
    *("stored_bytes", "trainable", "peak_bytes", "wall_s", "cpu_s", "gpu_s", "model", "task"),
)


def read(results: Path) -> list[Row]:
    """Every `metrics_*.json`, by bits (most first), rank and seed."""
    paths = sorted(results.glob("metrics_*.json"))
    if not paths:
        raise UserError(
            f"{results} holds no metrics_*.json: python experiments/run_experiment.py --bits 16"
        )
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    # Both scripts may have written of the same run.
    rows = list({row["fingerprint"]: row for row in rows}.values())
    return sorted(rows, key=lambda row: (-row["bits"], row["rank"], row["seed"]))


def cells(rows: Sequence[Row]) -> dict[tuple[int, int], list[Row]]:
    """By (bits, rank)."""
    found: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["bits"], row["rank"]), []).append(row)
    return found


def gaps(rows: Sequence[Row]) -> dict[tuple[int, int], list[float]]:
    """Loss above 16 bits of the same rank and seed."""
    base = {_pair(row): row["eval_loss"] for row in rows if row["bits"] == 16}
    found: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        key = _pair(row)
        if row["bits"] != 16 and key in base:
            found.setdefault((row["bits"], row["rank"]), []).append(row["eval_loss"] - base[key])
    return found


def _pair(row: Row) -> tuple[Any, ...]:
    """What two runs must have in common to be compared."""
    return row["model"], row["task"], row["rank"], row["seed"]


def write_tables(rows: Sequence[Row], results: Path) -> list[Path]:
    """summary.csv (a line a run), summary_table.csv (a line a cell), cost_log.md."""
    made = {
        "summary.csv": _csv(FIELDS, [{key: row.get(key) for key in FIELDS} for row in rows]),
        "summary_table.csv": _csv(tuple(_table(rows)[0]), _table(rows)),
        "cost_log.md": _costs(rows),
    }
    for name, text in made.items():
        write_atomic(results / name, text.encode())
    return [results / name for name in made]


def _table(rows: Sequence[Row]) -> list[Row]:
    lost, table = gaps(rows), []
    for (bits, rank), runs in cells(rows).items():
        loss = mean_and_spread([run["eval_loss"] for run in runs])
        gap = lost.get((bits, rank))
        table.append(
            {
                "bits": bits,
                "rank": rank,
                "seeds": len(runs),
                "loss": loss.mean,
                "loss_sd": loss.sd,
                "perplexity": math.exp(loss.mean) if loss.mean < 700 else None,
                "gap": None if gap is None else sum(gap) / len(gap),
                "gap_sd": None if gap is None else mean_and_spread(gap).sd,
                "stored_bytes": runs[0]["stored_bytes"],
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
    rows: Sequence[Row], predicted: Mapping[int, float], results: Path
) -> dict[str, Any]:
    """validation.json: the predicted gap of every bit-width beside the observed, correlation."""
    observed: dict[int, list[float]] = {}
    for (bits, _), values in gaps(rows).items():
        observed.setdefault(bits, []).extend(values)
    both = sorted(set(observed) & set(predicted), reverse=True)
    pairs = [(predicted[bits], sum(observed[bits]) / len(observed[bits])) for bits in both]
    correlation = None
    if len(pairs) > 2:
        correlation = float(np.corrcoef(np.array(pairs).T)[0, 1])
    body = {
        "bits": both,
        "predicted": [p for p, _ in pairs],
        "observed": [o for _, o in pairs],
        "ratio": [p / o if o else None for p, o in pairs],
        "correlation": correlation,
    }
    write_atomic(results / "validation.json", (to_json(body) + "\n").encode())
    return body
