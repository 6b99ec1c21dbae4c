"""Statistics as pure functions: arrays in, numbers out, with an explicit random Generator.

Every metric is a ratio of sums: nats per token, or correct answers per sentence. A run stores
(sum, count) for each scored example, so a bootstrap gives the metric's error. It draws whole
documents, because examples of one document are correlated and intervals over single windows would
be too narrow. For two runs it draws the same documents. That removes the spread between documents
from their difference.

These errors do not cover the variation between training seeds; only more seeds show that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BLOCK = 500_000
"""Entries of the resampling matrix in memory at once; the draws do not depend on it."""
LEAST_PAIRS = 3
"""The least number of pairs for a correlation; two points always lie on a line."""


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, and their standard deviation (None: one seed has no spread)."""

    mean: float
    sd: float | None
    count: int


@dataclass(frozen=True)
class Gap:
    """A difference of two ratios, with its 95 % interval over documents.

    `se`, `low` and `high` are None for a single document, which cannot be resampled.
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
    """Mean and standard deviation (n - 1) of one value per seed: (seeds,) -> Spread."""
    array = np.asarray(values, float)
    if array.ndim != 1 or not array.size:
        raise ValueError("expected one value per seed")
    sd = float(array.std(ddof=1)) if array.size > 1 else None
    return Spread(float(array.mean()), sd, array.size)


def clustered_error(sums: ArrayLike, counts: ArrayLike, clusters: Sequence[int]) -> float:
    """Standard error of sum(sums) / sum(counts) over clusters; infinite for a single cluster."""
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    top, bottom = (np.bincount(index, np.asarray(v, float)) for v in (sums, counts))
    n = len(top)
    if n < 2:
        return float("inf")
    residuals = top - top.sum() / bottom.sum() * bottom
    return float(np.sqrt(n / (n - 1) * np.square(residuals).sum()) / bottom.sum())


def correlation_of_decades(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, int]:
    """Pearson's correlation of the logarithms, and the number of pairs that are both positive.

    Gaps that differ by orders of magnitude need logarithms, or the largest alone would decide. The
    correlation is None for fewer than three pairs, or if one side has a single value.
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

    All arrays are (examples,), with the same examples in the same order for a and b; `documents`
    holds each example's document. Each resample draws as many documents as there are, with
    replacement, and takes the difference of the two ratios over them.
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
    """(4, examples) -> (4, documents) totals, without documents whose counts are zero."""
    table = np.stack([np.asarray(column, float) for column in columns])
    if table.ndim != 2 or table.shape[1:] != np.shape(documents):
        raise ValueError("sums, counts and documents must all have the shape (examples,)")
    _, cluster = np.unique(documents, return_inverse=True)
    totals: Floats = np.stack([np.bincount(cluster, weights=row) for row in table])
    scored = totals[[1, 3]] > 0
    if np.any(scored[0] != scored[1]):
        raise ValueError("a document is scored in one of the two runs only")
    if not scored.any():
        raise ValueError("a gap needs a positive count")
    return np.asarray(totals[:, scored[0]], float)


def _difference(totals: Floats) -> Floats:
    """(4, ...) -> (...): ratio a minus ratio b."""
    return np.asarray(totals[0] / totals[1] - totals[2] / totals[3])


def _resample(totals: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """The difference in each of `resamples` draws: (4, documents) -> (resamples,)."""
    count = totals.shape[1]
    rows = max(1, BLOCK // count)
    parts = []
    for start in range(0, resamples, rows):
        draws = rng.integers(count, size=(min(rows, resamples - start), count))
        parts.append(_difference(totals[:, draws].sum(-1)))
    return np.concatenate(parts)
