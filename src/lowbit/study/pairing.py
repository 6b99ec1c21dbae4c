"""Two plans of a setting, paired seed by seed and document by document; and who wins. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lowbit.core import paired_tests
from lowbit.core.paired_tests import Difference, Paired
from lowbit.runs.record import comparable
from lowbit.study.cells import Cell, Setting, scores
from lowbit.study.claims import ENOUGH_SEEDS, RESAMPLES

Columns = tuple[np.ndarray, ...]


def pairs_of(
    ours: Cell, theirs: Cell, *less: Cell, mean_with: Sequence[Cell] = ()
) -> tuple[list[Columns], list[str]]:
    """(sums, counts of both by document) of every seed that all finished, and what was refused.

    `less`: two more cells, whose difference is taken off. Over the same counts (a - b) - (c - d) is
    (a + d) - (b + c). `mean_with`: cells that are averaged with theirs.
    """
    pairs: list[Columns] = []
    refused: list[str] = []
    cells = (ours, theirs, *less, *mean_with)
    for seed in sorted(set.intersection(*(set(cell.done) for cell in cells))):
        folders, found = zip(*(cell.done[seed] for cell in cells), strict=True)
        different = [fact for other in found[1:] for fact in comparable(found[0], other)]
        if different:
            facts = ", ".join(dict.fromkeys(different))
            refused.append(f"seed {seed}: recorded facts differ ({facts})")
            continue
        each = [scores(folder) for folder in folders]
        if any(not np.array_equal(each[0].document, one.document) for one in each[1:]):
            refused.append(f"seed {seed}: scored on other examples")
            continue
        _, cluster = np.unique(each[0].document, return_inverse=True)
        sums = [np.bincount(cluster, weights=one.sum) for one in each]
        counts = [np.bincount(cluster, weights=one.count) for one in each]
        if len(cells) > 2 and any(not np.array_equal(counts[0], one) for one in counts[1:]):
            refused.append(f"seed {seed}: counted differently")
            continue
        if less:
            sums = [sums[0] + sums[3], sums[1] + sums[2]]
        elif mean_with:
            sums = [sums[0], np.mean(sums[1:], axis=0)]
        pairs.append((sums[0], counts[0], sums[1], counts[1]))
    return pairs, refused


def lost(cell: Cell) -> list[str]:
    """The runs of a cell that ended without a score."""
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


def turned(found: Difference, sign: float) -> Difference:
    """The difference as a gain: positive is better."""
    return replace(found, estimate=sign * found.estimate)


def gain_over(
    setting: Setting, plan: str, than: str, resamples: int = RESAMPLES
) -> Difference | None:
    """By how much a plan is better than another, over the seeds that both finished."""
    cells = {cell.plan: cell for cell in setting.cells}
    if plan not in cells or than not in cells:
        return None
    pairs, _ = pairs_of(cells[plan], cells[than])
    if not pairs:
        return None
    found = paired_tests.bootstrap(stacked(pairs, False), np.random.default_rng(0), resamples)
    return turned(found, sign_of(setting))


def winner(setting: Setting, alpha: float = 0.05) -> str | None:
    """The plan that is better than every other of its setting, corrected for all of them."""
    scored = [cell for cell in setting.cells if cell.done]
    if len(scored) < 2 or min(len(cell.done) for cell in scored) < ENOUGH_SEEDS:
        return None
    means = {
        c.plan: float(np.mean([r.metrics[setting.metric] for _, r in c.done.values()]))
        for c in scored
    }
    best = (max if setting.better == "higher" else min)(means, key=lambda plan: means[plan])
    gains = [gain_over(setting, best, plan) for plan in means if plan != best]
    if any(gain is not None and gain.seeds < ENOUGH_SEEDS for gain in gains):
        return None  # too few pairs may be compared
    p = paired_tests.holm([1.0 if gain is None else gain.p_two_sided() for gain in gains])
    return best if max(p) < alpha else None
