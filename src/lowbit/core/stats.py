"""Statistics: arrays in, numbers out, and an explicit Generator wherever chance is used.

Every metric of ours is a ratio of sums: nats over tokens, right answers over sentences. A run
keeps (sum, count) for each scored example, so a metric's error is found by drawing examples
again. Examples of one document are alike, so whole documents are drawn: an interval over single
windows of one article would be too narrow. Two runs are drawn *together* (the same documents for
both), which is what makes a small gap visible under a large spread between documents.

What this does not tell: how far another training seed would land. Only more seeds tell that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BLOCK = 500_000
"""Entries of the resampling matrix held at once; the draws do not depend on it."""
LEAST_PAIRS = 3
"""Through two there is always a straight line."""


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, and their standard deviation (None: one seed has no spread)."""

    mean: float
    sd: float | None
    count: int


@dataclass(frozen=True)
class Gap:
    """A difference of two ratios, with its 95 % interval over documents.

    `se`, `low` and `high` are None where there is a single document: nothing can be drawn again.
    """

    estimate: float
    se: float | None
    low: float | None
    high: float | None
    documents: int


def ratio(sums: ArrayLike, counts: ArrayLike) -> Floats:
    """sum(sums) / sum(counts) over the last axis: (..., examples) -> (...)."""
    top, bottom = np.asarray(sums, float).sum(-1), np.asarray(counts, float).sum(-1)
    if np.any(bottom <= 0):
        raise ValueError("a ratio needs a positive count")
    return np.asarray(top / bottom)


def mean_and_spread(values: ArrayLike) -> Spread:
    """Mean and standard deviation (n - 1) of one value a seed: (seeds,) -> Spread."""
    array = np.asarray(values, float)
    if array.ndim != 1 or not array.size:
        raise ValueError("expected one value a seed")
    sd = float(array.std(ddof=1)) if array.size > 1 else None
    return Spread(float(array.mean()), sd, array.size)


def clustered_error(sums: ArrayLike, counts: ArrayLike, clusters: Sequence[int]) -> float:
    """Standard error of sum(sums) / sum(counts), whole clusters being what is drawn: inf of one."""
    places = np.unique(np.asarray(clusters), return_inverse=True)[1]
    top, bottom = (np.bincount(places, np.asarray(v, float)) for v in (sums, counts))
    n = len(top)
    if n < 2:
        return float("inf")
    away = top - top.sum() / bottom.sum() * bottom
    return float(np.sqrt(n / (n - 1) * np.square(away).sum()) / bottom.sum())


def correlation_of_decades(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, int]:
    """Pearson's over the logarithms of pairs that are both positive, and how many those are.

    For gaps that lie decades apart: as they are, the largest alone would decide. None below three
    pairs, and where one side is all the same.
    """
    logs = np.log([pair for pair in pairs if min(pair) > 0]).reshape(-1, 2)
    if len(logs) < LEAST_PAIRS or any(len(set(side)) == 1 for side in logs.T):
        return None, len(logs)
    return float(np.corrcoef(logs.T)[0, 1]), len(logs)


def paired_gap(
    sums_a: ArrayLike,
    counts_a: ArrayLike,
    sums_b: ArrayLike,
    counts_b: ArrayLike,
    documents: NDArray[Any],
    rng: np.random.Generator,
    resamples: int = 2000,
) -> Gap:
    """ratio(a) - ratio(b) and its error by bootstrap over documents.

    All arrays are (examples,), the same examples in the same order on both sides; `documents`
    says which document each belongs to. Each resample draws as many documents as there are, with
    replacement, and takes the difference of the two ratios over what it drew.
    """
    totals = _by_document((sums_a, counts_a, sums_b, counts_b), documents)
    estimate = float(_difference(totals.sum(-1)))
    count = totals.shape[1]
    if count < 2:
        return Gap(estimate, None, None, None, count)
    draws = _resample(totals, rng, resamples)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Gap(estimate, float(draws.std(ddof=1)), float(low), float(high), count)


def _by_document(columns: tuple[ArrayLike, ...], documents: NDArray[Any]) -> Floats:
    """(4, examples) -> (4, documents) totals, without the documents that count nothing."""
    table = np.stack([np.asarray(column, float) for column in columns])
    if table.ndim != 2 or table.shape[1:] != np.shape(documents):
        raise ValueError("sums, counts and documents must be (examples,) alike")
    _, cluster = np.unique(documents, return_inverse=True)
    totals: Floats = np.stack([np.bincount(cluster, weights=row) for row in table])
    counted = totals[[1, 3]] > 0
    if np.any(counted[0] != counted[1]):
        raise ValueError("a document is scored on one side only")
    if not counted.any():
        raise ValueError("a gap needs a positive count")
    return np.asarray(totals[:, counted[0]], float)


def _difference(totals: Floats) -> Floats:
    """(4, ...) -> (...): ratio a minus ratio b."""
    return np.asarray(totals[0] / totals[1] - totals[2] / totals[3])


def _resample(totals: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """The difference in each of `resamples` draws: (4, documents) -> (resamples,)."""
    count = totals.shape[1]
    rows = max(1, BLOCK // count)
    parts = []
    for start in range(0, resamples, rows):
        drawn = rng.integers(count, size=(min(rows, resamples - start), count))
        parts.append(_difference(totals[:, drawn].sum(-1)))
    return np.concatenate(parts)
