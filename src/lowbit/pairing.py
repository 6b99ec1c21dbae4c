"""Two plans of a setting, paired seed by seed and document by document; and who wins. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lowbit import inference
from lowbit.cells import Cell, Setting, scores
from lowbit.claims import ENOUGH_SEEDS, RESAMPLES
from lowbit.inference import Difference, Paired
from lowbit.record import comparable


def pairs_of(ours: Cell, theirs: Cell) -> tuple[list[tuple[np.ndarray, ...]], list[str]]:
    """(sums, counts of both by document) of every seed that both finished, and what was refused."""
    pairs, refused = [], []
    for seed in sorted(ours.done.keys() & theirs.done.keys()):
        (one, first), (two, second) = ours.done[seed], theirs.done[seed]
        if different := comparable(first, second):
            refused.append(f"seed {seed}: recorded facts differ ({', '.join(different)})")
            continue
        a, b = scores(one), scores(two)
        if not np.array_equal(a.document, b.document):
            refused.append(f"seed {seed}: scored on other examples")
            continue
        _, cluster = np.unique(a.document, return_inverse=True)
        columns = (a.sum, a.count, b.sum, b.count)
        pairs.append(tuple(np.bincount(cluster, weights=column) for column in columns))
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


def stacked(pairs: Sequence[tuple[np.ndarray, ...]], exponential: bool) -> Paired:
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
    found = inference.bootstrap(stacked(pairs, False), np.random.default_rng(0), resamples)
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
    p = inference.holm([1.0 if gain is None else gain.p_two_sided() for gain in gains])
    return best if max(p) < alpha else None
