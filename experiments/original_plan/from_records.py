"""Metrics files from a study's records, so that nothing is trained twice. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowbit import Record, Study
from lowbit.core.errors import UserError
from lowbit.core.files import to_json, write_atomic
from lowbit.core.spec import BLOCK_ROLES

# The public API runs and reports studies; records and predictions are read with internals.
from lowbit.study import predicted_vs_observed
from lowbit.study.results import Results, read_results
from original_plan.fine_tune import ALL_BITS, FineTuneRequest, format_of, metrics, write
from original_plan.pairs import Row, cells
from original_plan.predicted_gaps import PREDICTIONS, prediction_entry


def collect(study: Study, folder: Path, task: str) -> list[Path]:
    """Write a metrics file for every run of a task with one format and one rank in all blocks.

    The study's predictions are written next to them, so that the analysis does not predict again.
    """
    results = read_results(study)
    runs = [
        (run, request)
        for run in results.runs
        if (request := _request(run.record, task)) is not None
    ]
    if not runs:
        raise UserError(f"{study.results} has no finished run on {task} in one format and rank")
    paths, rows = [], []
    for run, request in runs:
        rows.append(metrics(request, run, folder))
        stem = f"metrics_{request.bits}_r{request.rank}_{request.seed}"
        paths.append(write(rows[-1], folder, stem))
    entries = _predictions(results, task, rows)
    if entries:
        write_atomic(folder / PREDICTIONS, (to_json(entries) + "\n").encode())
    else:  # A file that is there already has another study's predictions.
        (folder / PREDICTIONS).unlink(missing_ok=True)
    return paths


def _request(record: Record, task: str) -> FineTuneRequest | None:
    """The fine-tune that a record is of; None unless its blocks share one format and one rank."""
    blocks = [site for site in record.sites if site.role in BLOCK_ROLES]
    formats, ranks = {site.format for site in blocks}, {site.rank for site in blocks}
    bits = next((b for b in ALL_BITS if formats == {format_of(b)}), None)
    own_adapter = not record.spec["plan"].get("adapter")
    fits = len(ranks) == 1 and own_adapter and (record.task, record.status) == (task, "done")
    if bits is None or not fits:
        return None
    return FineTuneRequest(bits, ranks.pop(), record.seed, record.model, record.task)


def _predictions(results: Results, task: str, rows: Sequence[Row]) -> list[Row]:
    """The study's prediction of every cell; a cell with several plans has the mean of its runs."""
    by_plan = {
        (gap.model, gap.plan): gap.predictions[predicted_vs_observed.TRUSTED].gap
        for gap in predicted_vs_observed.predicted_gaps(results)
        if gap.kind == "adapted" and gap.task == task
    }
    entries = []
    for key, runs in sorted(cells(rows).items()):
        plans = [(run["model"], run["plan"]) for run in runs]
        gaps = [by_plan[plan] for plan in plans if plan in by_plan]
        if gaps:
            entries.append(prediction_entry(key, sum(gaps) / len(gaps), rows))
    return entries
