"""A study's records as one flat table for pandas and spreadsheets, one row per run. No torch.

The columns are settings (`train.lr`, `plan.rank`), metrics (`metrics.loss`), bytes, costs and
recorded facts, each with its dotted name. `lowbit results STUDY --to FILE` writes the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lowbit.core.errors import UserError, nearest
from lowbit.core.files import to_json, write_atomic
from lowbit.runs.store import FinishedRun
from lowbit.study.results import Results

FORMATS = (".csv", ".parquet")
FIRST = ("run", "model", "task", "plan", "seed", "status")


def results_rows(results: Results) -> list[dict[str, Any]]:
    """One row per finished run of the study, in the study's order.

    Args:
        results: a study's results.

    Returns:
        Rows with the same keys; a value is None if a run does not have it.
    """
    rows = [_row(run) for run in results.runs]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]


def write_results(results: Results, path: Path) -> int:
    """Write the table as CSV or Parquet, depending on the file's suffix.

    Args:
        results: a study's results.
        path: a file that ends in `.csv` or `.parquet`.

    Returns:
        The number of runs that were written.
    """
    if path.suffix not in FORMATS:
        hint = nearest(path.suffix, FORMATS) if path.suffix else ""
        raise UserError(f"{path} should end in .csv or .parquet.{hint}")
    rows = results_rows(results)
    if not rows:
        raise UserError(f"{results.study.results} holds no finished run")
    write_atomic(path, _csv(rows) if path.suffix == ".csv" else _parquet(rows))
    return len(rows)


def _row(run: FinishedRun) -> dict[str, Any]:
    record = run.record
    body = asdict(record)
    plan = {key: value for key, value in body["spec"]["plan"].items() if key != "name"}
    return {
        **dict(zip(FIRST, (run.name, record.model, record.task, record.plan, record.seed,
                           record.status), strict=True)),
        **_flat(body["metrics"], "metrics."),
        **_flat(body["bytes"], "bytes."),
        "trainable": record.trainable,
        "parameters": record.parameters,
        **_flat(asdict(run.cost), "cost."),
        **_flat(body["spec"]["train"], "train."),
        **_flat(plan, "plan."),
        **_flat(body["facts"], "facts."),
        "fingerprint": record.fingerprint,
        "message": record.message,
    }  # fmt: skip


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested tables under dotted names; lists as JSON text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = to_json(value) if isinstance(value, list | tuple) else value
    return flat


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise UserError(
            "Parquet needs pyarrow: pip install 'lowbit[parquet]', or write a .csv"
        ) from None
    columns = {key: _column([row[key] for row in rows]) for key in rows[0]}
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: text if a setting is a number in one run and text in another."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return values
    return [None if value is None else str(value) for value in values]
