"""A study's records as the documents' metrics files, so that nothing is trained twice. No torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lowbit.core.errors import UserError
from lowbit.core.files import to_json, write_atomic
from lowbit.core.spec import BLOCK_ROLES
from lowbit.runs.record import Record
from lowbit.study import predicted_vs_observed
from lowbit.study.results import Results, read_results
from lowbit.study.study import Study
from original_plan.fine_tune import ALL_BITS, Asked, format_of, metrics, write
from original_plan.pairs import Row, cells
from original_plan.predicted_gaps import FORESEEN, entry


def collect(study: Study, results: Path, task: str) -> list[Path]:
    """A metrics file for every run of a task with one format and one rank in all blocks.

    What the study had predicted of them is written too: the analysis then predicts nothing anew.
    """
    results_of = read_results(study)
    runs = [
        (run, kind) for run in results_of.runs if (kind := _asked(run.record, task)) is not None
    ]
    if not runs:
        raise UserError(f"{study.results} has no finished run on {task} in one format and rank")
    written, rows = [], []
    for run, kind in runs:
        where = Path(os.path.relpath(run.folder, results)).as_posix()
        rows.append(metrics(kind, run.record, list(run.log), where))
        written.append(write(rows[-1], results, f"metrics_{kind.bits}_r{kind.rank}_{kind.seed}"))
    foreseen = _foreseen(results_of, task, rows)
    if foreseen:
        write_atomic(results / FORESEEN, (to_json(foreseen) + "\n").encode())
    else:  # What another study had predicted is not said of this one.
        (results / FORESEEN).unlink(missing_ok=True)
    return written


def _asked(record: Record, task: str) -> Asked | None:
    """The bits, rank and seed of a run that has only one of each; None for any other."""
    blocks = [site for site in record.sites if site.role in BLOCK_ROLES]
    formats, ranks = {site.format for site in blocks}, {site.rank for site in blocks}
    bits = next((b for b in ALL_BITS if formats == {format_of(b)}), None)
    own = not record.spec["plan"].get("adapter")
    fits = len(ranks) == 1 and own and (record.task, record.status) == (task, "done")
    if bits is None or not fits:
        return None
    return Asked(bits, ranks.pop(), record.seed, record.model, record.task)


def _foreseen(results: Results, task: str, rows: Sequence[Row]) -> list[Row]:
    """What the study predicted of every cell; a cell of several plans has their runs' mean."""
    told = {
        (cell.model, cell.plan): cell.predictions[predicted_vs_observed.TRUSTED].gap
        for cell in predicted_vs_observed.predicted_gaps(results)
        if cell.kind == "adapted" and cell.task == task
    }
    found = []
    for key, runs in sorted(cells(rows).items()):
        said = [gap for run in runs if (gap := told.get((run["model"], run["plan"]))) is not None]
        if said:
            found.append(entry(key, sum(said) / len(said), rows))
    return found
