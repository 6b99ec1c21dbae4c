"""Runs grouped into cells, and cells paired seed by seed.

A setting is one model on one task; a cell is one plan in it, over all its seeds. The gap to
16 bit pairs every run with the run of the same seed whose sites are all stored in plain floating
point, document by document. Records that differ in a recorded fact which may move the result
(another machine's threads, another version) are not paired; the reason is kept and shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from lowbit.core.files import lines
from lowbit.core.stats import Floats, Gap, paired_gap
from lowbit.quant.formats import is_cast, parse
from lowbit.runs.record import SCORES, Record, comparable, load
from lowbit.study.schema import Part
from lowbit.study.study import Study

Run = tuple[Path, Record]


@dataclass(frozen=True)
class Cell:
    """One plan of a setting: its runs, by seed."""

    plan: str
    runs: tuple[Run, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(record for _, record in self.runs)

    @property
    def done(self) -> dict[int, Run]:
        """The runs that have a score, by seed."""
        return {run[1].seed: run for run in self.runs if run[1].status == "done"}

    @property
    def sixteen(self) -> bool:
        """Whether every site is stored in a plain floating-point type."""
        sites = self.runs[0][1].sites
        return bool(sites) and all(is_cast(parse(site.format)) for site in sites)


@dataclass(frozen=True)
class Setting:
    """One model on one task, with its cells in the order of the study."""

    model: str
    task: str
    metric: str
    better: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """A cell against its baseline: the gap, the seeds it rests on, and what was refused."""

    gap: Gap | None = None
    seeds: int = 0
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """`scores.jsonl` as columns, each (examples,)."""

    example: Floats
    document: Floats
    sum: Floats
    count: Floats


def records(study: Study) -> list[tuple[Path, Record]]:
    """The finished runs of a study as it is declared now."""
    found = [(study.place(run), load(study.place(run)), run) for run in study.runs]
    return [(f, r) for f, r, run in found if r is not None and r.fingerprint == run.fingerprint]


def of_part(study: Study, part: Part, runs: Sequence[Run]) -> list[Run]:
    """The finished runs of a part, in the part's own order of plans."""
    found = {folder.name: (folder, record) for folder, record in runs}
    return [found[run.name] for run in study.part(part) if run.name in found]


def settings(runs: Sequence[Run]) -> tuple[Setting, ...]:
    """Group runs by model and task, then by plan; first seen, first listed; seeds ascending."""
    found: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in runs:
        record = run[1]
        cells = found.setdefault((record.model, record.task), {})
        cells.setdefault(record.plan, []).append(run)
    return tuple(_setting(model, task, cells) for (model, task), cells in found.items())


def _setting(model: str, task: str, plans: dict[str, list[Run]]) -> Setting:
    cells = tuple(
        Cell(plan, tuple(sorted(runs, key=lambda run: run[1].seed))) for plan, runs in plans.items()
    )
    first = cells[0].records[0]
    return Setting(model, task, first.metric, first.better, cells)


def baseline(setting: Setting) -> Cell | None:
    """The 16-bit cell to compare with: of several the one with most finished seeds, then the
    first listed."""
    candidates = [cell for cell in setting.cells if cell.sixteen]
    return max(candidates, key=lambda cell: len(cell.done), default=None)


def compare(cell: Cell, reference: Cell, resamples: int = 2000) -> Comparison:
    """The paired gap cell - reference over all seeds that both finished.

    The seeds' scores are pooled and documents drawn once for all of them, so the interval speaks
    of other documents, not of other seeds. Fixed generator: the same records give the same table.
    """
    pairs: list[tuple[Scores, Scores]] = []
    refused: dict[str, list[int]] = {}
    for seed in sorted(cell.done.keys() & reference.done.keys()):
        pair = _pair(cell.done[seed], reference.done[seed])
        if isinstance(pair, str):
            refused.setdefault(pair, []).append(seed)
        else:
            pairs.append(pair)
    reasons = tuple(
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: {reason}"
        for reason, seeds in refused.items()
    )
    if not pairs:
        return Comparison(refused=reasons)
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    gap = paired_gap(
        _column(ours, "sum"),
        _column(ours, "count"),
        _column(theirs, "sum"),
        _column(theirs, "count"),
        _column(ours, "document"),
        np.random.default_rng(0),
        resamples,
    )
    return Comparison(gap, len(pairs), reasons)


def _pair(ours: Run, theirs: Run) -> tuple[Scores, Scores] | str:
    """Both runs' scores, or why they may not be compared."""
    if different := comparable(ours[1], theirs[1]):
        return f"recorded facts differ ({', '.join(different)})"
    first, second = scores(ours[0]), scores(theirs[0])
    if not np.array_equal(first.example, second.example):
        return "scored on different examples"
    if not np.array_equal(first.document, second.document):
        return "documents cut differently"
    return first, second


def scores(folder: Path) -> Scores:
    """The per-example scores of a run, sorted by example; read once, until the file is another."""
    told = (folder / SCORES).stat()
    return _scores(folder, told.st_mtime_ns, told.st_size)


@lru_cache(maxsize=1024)
def _scores(folder: Path, changed: int, size: int) -> Scores:
    rows = sorted(lines(folder / SCORES), key=lambda row: row["example"])
    columns = ("example", "document", "sum", "count")
    return Scores(*(np.array([row[name] for row in rows], float) for name in columns))


def _column(parts: Sequence[Scores], name: str) -> Floats:
    return np.concatenate([getattr(part, name) for part in parts])
