"""A study's records as the documents' metrics files, so that nothing is trained twice. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowbit.cells import records
from lowbit.classic.summary import FORESEEN, Row
from lowbit.classic.tuning import ALL_BITS, Asked, format_of, metrics
from lowbit.errors import UserError
from lowbit.files import lines, to_json, write_atomic
from lowbit.gaps import TRUSTED, cells
from lowbit.record import LOG, Record
from lowbit.spec import BLOCK_ROLES
from lowbit.study import Study


def collect(study: Study, results: Path, task: str) -> list[Path]:
    """A metrics file for every run of a task with one format and one rank in all blocks.

    What the study had predicted of them is written too: the analysis then predicts nothing anew.
    """
    found = [(run, asked) for run in records(study) if (asked := _asked(run[1], task)) is not None]
    if not found:
        raise UserError(f"{study.results} has no finished run on {task} in one format and rank")
    made = []
    for (folder, record), asked in found:
        row = metrics(asked, record, list(lines(folder / LOG)), folder)
        made.append(results / f"metrics_{asked.bits}_r{asked.rank}_{asked.seed}.json")
        write_atomic(made[-1], (to_json(row) + "\n").encode())
    foreseen = _foreseen(study, task, [(run[1].plan, asked.bits) for run, asked in found])
    if foreseen:
        write_atomic(results / FORESEEN, (to_json(foreseen) + "\n").encode())
    else:  # What another study had predicted is not said of this one.
        (results / FORESEEN).unlink(missing_ok=True)
    return made


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


def _foreseen(study: Study, task: str, runs: Sequence[tuple[str, int]]) -> Row:
    """The predicted gap at each bit-width: a mean over runs, as observed gaps are averaged."""
    told = {
        cell.plan: cell.foreseen[TRUSTED].gap
        for cell in cells(study)
        if cell.kind == "adapted" and cell.task == task
    }
    gaps: dict[int, list[float]] = {}
    for plan, bits in runs:
        if plan in told:
            gaps.setdefault(bits, []).append(told[plan])
    return {str(bits): sum(each) / len(each) for bits, each in sorted(gaps.items())}
