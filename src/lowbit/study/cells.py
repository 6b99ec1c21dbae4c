"""Groups runs into settings (one model on one task) and cells (one plan in a setting, over seeds).

The gap of a cell to 16 bits pairs every run with the 16-bit run of the same seed, document by
document. Runs are not paired if a recorded fact differs that can change the result (another CPU,
another version). The reason is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowbit.core.stats import Floats, Gap, paired_gap
from lowbit.quant.formats import is_cast, parse
from lowbit.runs.record import Record, differing_facts
from lowbit.runs.store import FinishedRun, Scores


@dataclass(frozen=True)
class Cell:
    """One plan of a setting: its runs, by seed."""

    plan: str
    runs: tuple[FinishedRun, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(run.record for run in self.runs)

    @property
    def done(self) -> dict[int, FinishedRun]:
        """The runs with a score, by seed."""
        return {run.seed: run for run in self.runs if run.record.status == "done"}

    @property
    def is_sixteen_bit(self) -> bool:
        """Whether every site is stored in a plain floating-point type."""
        sites = self.runs[0].record.sites
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
class PairedGap:
    """A cell's gap to its baseline, its number of seeds, and the refused seeds with the reason."""

    gap: Gap | None = None
    seeds: int = 0
    refused: tuple[str, ...] = ()


def settings(runs: Sequence[FinishedRun]) -> tuple[Setting, ...]:
    """Group runs by model and task, then by plan, in the order of the runs; seeds ascending."""
    groups: dict[tuple[str, str], dict[str, list[FinishedRun]]] = {}
    for run in runs:
        plans = groups.setdefault((run.record.model, run.record.task), {})
        plans.setdefault(run.plan, []).append(run)
    return tuple(_setting(model, task, plans) for (model, task), plans in groups.items())


def _setting(model: str, task: str, plans: dict[str, list[FinishedRun]]) -> Setting:
    cells = tuple(
        Cell(plan, tuple(sorted(runs, key=lambda run: run.seed))) for plan, runs in plans.items()
    )
    first = cells[0].records[0]
    return Setting(model, task, first.metric, first.better, cells)


def baseline(setting: Setting) -> Cell | None:
    """The 16-bit cell with the most finished seeds; the first of them if several have as many."""
    candidates = [cell for cell in setting.cells if cell.is_sixteen_bit]
    return max(candidates, key=lambda cell: len(cell.done), default=None)


def gap_between(cell: Cell, reference: Cell, resamples: int = 2000) -> PairedGap:
    """The paired gap `cell - reference` over all seeds that both finished.

    Scores are pooled over seeds, and each resample of documents is the same for all seeds. So the
    interval covers other documents, but not other seeds. The random generator is fixed: the same
    records give the same table.
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
        return PairedGap(refused=reasons)
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
    return PairedGap(gap, len(pairs), reasons)


def _pair(ours: FinishedRun, theirs: FinishedRun) -> tuple[Scores, Scores] | str:
    """Both runs' scores, or the reason why they may not be compared."""
    if different := differing_facts(ours.record, theirs.record):
        return f"recorded facts differ ({', '.join(different)})"
    first, second = ours.scores, theirs.scores
    if not np.array_equal(first.example, second.example):
        return "scored on different examples"
    if not np.array_equal(first.document, second.document):
        return "examples belong to different documents"
    return first, second


def _column(parts: Sequence[Scores], name: str) -> Floats:
    return np.concatenate([getattr(part, name) for part in parts])
