"""Pairs two plans of a setting by seed and document. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lowbit.core import paired_tests
from lowbit.core.paired_tests import Difference, Paired
from lowbit.runs.record import differing_facts
from lowbit.runs.store import FinishedRun
from lowbit.study.cells import Cell, Setting
from lowbit.study.claims import ENOUGH_SEEDS, RESAMPLES

Columns = tuple[np.ndarray, ...]


def pairs_of(
    ours: Cell, theirs: Cell, *less: Cell, mean_with: Sequence[Cell] = ()
) -> tuple[list[Columns], list[str]]:
    """(sums, counts of both plans by document) for every common seed, and the refused seeds.

    Args:
        ours: the plan whose gain is computed.
        theirs: the plan it is compared with.
        less: two more cells whose difference is subtracted. With equal counts,
            (a - b) - (c - d) is (a + d) - (b + c).
        mean_with: cells that are averaged with `theirs`.
    """
    pairs: list[Columns] = []
    refused: list[str] = []
    cells = (ours, theirs, *less, *mean_with)
    for seed in sorted(set.intersection(*(set(cell.done) for cell in cells))):
        columns = _columns([cell.done[seed] for cell in cells])
        if isinstance(columns, str):
            refused.append(f"seed {seed}: {columns}")
            continue
        sums, counts = columns
        if less:
            sums = [sums[0] + sums[3], sums[1] + sums[2]]
        elif mean_with:
            sums = [sums[0], np.mean(sums[1:], axis=0)]
        pairs.append((sums[0], counts[0], sums[1], counts[1]))
    return pairs, refused


def _columns(
    runs: Sequence[FinishedRun],
) -> tuple[list[np.ndarray], list[np.ndarray]] | str:
    """Sums and counts of every run by document, or the reason why they may not be compared."""
    first = runs[0]
    different = [fact for run in runs[1:] for fact in differing_facts(first.record, run.record)]
    if different:
        return f"recorded facts differ ({', '.join(dict.fromkeys(different))})"
    scores = [run.scores for run in runs]
    if any(not np.array_equal(scores[0].document, each.document) for each in scores[1:]):
        return "scored on other examples"
    _, cluster = np.unique(scores[0].document, return_inverse=True)
    sums = [np.bincount(cluster, weights=each.sum) for each in scores]
    counts = [np.bincount(cluster, weights=each.count) for each in scores]
    if len(runs) > 2 and any(not np.array_equal(counts[0], each) for each in counts[1:]):
        return "scored with different counts"
    return sums, counts


def diverged(cell: Cell) -> list[str]:
    """One phrase for each diverged run of a cell."""
    return [
        f"{cell.plan} diverged with seed {record.seed}"
        for record in cell.records
        if record.status == "diverged"
    ]


def sign_of(setting: Setting) -> float:
    return 1.0 if setting.better == "higher" else -1.0


def stacked(pairs: Sequence[Columns], exponential: bool) -> Paired:
    a, m, b, n = (np.stack([pair[i] for pair in pairs]) for i in range(4))
    return Paired(a, m, b, n, exponential)


def as_gain(difference: Difference, sign: float) -> Difference:
    """The difference with the sign that makes positive better."""
    return replace(difference, estimate=sign * difference.estimate)


def gain_over(
    setting: Setting, plan: str, than: str, resamples: int = RESAMPLES
) -> Difference | None:
    """The gain of a plan over another, over the seeds that both finished; None without a pair."""
    cells = {cell.plan: cell for cell in setting.cells}
    if plan not in cells or than not in cells:
        return None
    pairs, _ = pairs_of(cells[plan], cells[than])
    if not pairs:
        return None
    difference = paired_tests.bootstrap(stacked(pairs, False), np.random.default_rng(0), resamples)
    return as_gain(difference, sign_of(setting))


def winner(setting: Setting, alpha: float = 0.05) -> str | None:
    """The plan that is significantly better than every other in its setting, by Holm's rule."""
    scored = [cell for cell in setting.cells if cell.done]
    if len(scored) < 2 or min(len(cell.done) for cell in scored) < ENOUGH_SEEDS:
        return None
    means = {
        cell.plan: float(
            np.mean([run.record.metrics[setting.metric] for run in cell.done.values()])
        )
        for cell in scored
    }
    best = (max if setting.better == "higher" else min)(means, key=lambda plan: means[plan])
    gains = [gain_over(setting, best, plan) for plan in means if plan != best]
    if any(gain is not None and gain.seeds < ENOUGH_SEEDS for gain in gains):
        return None  # too few seeds may be compared
    p = paired_tests.holm([1.0 if gain is None else gain.p_two_sided() for gain in gains])
    return best if max(p) < alpha else None
