"""Statistical tests on the paired scores of two plans.

Every array of scores is (seeds, documents), with the same seeds and the same documents for both
plans. A plan's metric is the ratio of sums to counts over documents, averaged over seeds. A
document has the same weight in every seed.

`bootstrap` is the test that decides claims. It draws seeds and documents with replacement, so its
standard error covers both. It counts their interaction twice, so the error is a little too large
rather than too small (Owen 2007, the pigeonhole bootstrap). The other tests answer narrower
questions. McNemar's generalises to other sentences for one trained model. The t-test and Wilcoxon's
generalise to other seeds on the same sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
DRAWS_AT_A_TIME = 500


@dataclass(frozen=True)
class Paired:
    """Scores of two plans, each array (seeds, documents).

    `exponential`: the metric is the exponential of a seed's ratio, as for a perplexity.
    """

    sums_a: Floats
    counts_a: Floats
    sums_b: Floats
    counts_b: Floats
    exponential: bool = False

    def __post_init__(self) -> None:
        shapes = {np.shape(a) for a in (self.sums_a, self.counts_a, self.sums_b, self.counts_b)}
        if len(shapes) != 1 or len(shapes.pop()) != 2:
            raise ValueError("expected four arrays of the same shape (seeds, documents)")

    def metrics(self, draws: Floats | None = None) -> tuple[Floats, Floats]:
        """The metric of every seed for plans a and b, each (..., seeds).

        `draws` (..., documents): the number of times each document is drawn; None: once.
        """
        weights = np.ones(self.sums_a.shape[1]) if draws is None else draws
        a = (weights @ self.sums_a.T) / (weights @ self.counts_a.T)
        b = (weights @ self.sums_b.T) / (weights @ self.counts_b.T)
        return (np.exp(a), np.exp(b)) if self.exponential else (a, b)

    @property
    def by_seed(self) -> Floats:
        """The difference a - b for every seed: (seeds,)."""
        a, b = self.metrics()
        return np.asarray(a - b)

    @property
    def estimate(self) -> float:
        """a - b, averaged over seeds."""
        return float(self.by_seed.mean())

    @property
    def level(self) -> float:
        """The metric of b, averaged over seeds."""
        return float(self.metrics()[1].mean())


@dataclass(frozen=True)
class Difference:
    """a - b with its standard error and 95 % interval, by Student's t with `df` degrees of freedom.

    `seed_se`: the part of the error that comes from seeds and shrinks with more of them.
    """

    estimate: float
    se: float
    df: float
    seeds: int
    documents: int
    seed_se: float = 0.0

    @property
    def low(self) -> float:
        return self.estimate - self._half_width

    @property
    def high(self) -> float:
        return self.estimate + self._half_width

    @property
    def _half_width(self) -> float:
        return float(stats.t.ppf(0.975, self.df)) * self.se if self.se else 0.0

    def p_two_sided(self) -> float:
        """The two-sided p-value of no difference."""
        return min(1.0, 2 * min(self.p_above(0.0), self.p_below(0.0)))

    def p_above(self, margin: float) -> float:
        """The one-sided p-value of a difference of at most `margin`."""
        excess = self.estimate - margin
        if not self.se:
            return 0.0 if excess > 0 else 1.0
        return float(stats.t.sf(excess / self.se, self.df))

    def p_below(self, margin: float) -> float:
        """The one-sided p-value of a difference of at least `margin`."""
        return replace(self, estimate=-self.estimate).p_above(-margin)

    def p_within(self, margin: float) -> float:
        """The p-value of a difference outside plus or minus `margin` (two one-sided tests)."""
        return max(self.p_above(-margin), self.p_below(margin))


def bootstrap(pair: Paired, rng: np.random.Generator, resamples: int = 10_000) -> Difference:
    """Bootstrap over seeds and documents, with the same draws for both plans.

    Drawing n seeds with replacement gives (n - 1) / n of their variance; the rest is added. With
    few seeds the error is not normal, so Student's t is used. Its degrees of freedom combine those
    of seeds and documents by their share of the variance (Satterthwaite).
    """
    seeds, documents = pair.sums_a.shape
    parts = [
        _draws(pair, rng, min(DRAWS_AT_A_TIME, resamples - start))
        for start in range(0, resamples, DRAWS_AT_A_TIME)
    ]
    joint = float(np.concatenate([both for both, _ in parts]).var(ddof=1))
    of_documents = float(np.concatenate([alone for _, alone in parts]).var(ddof=1))
    of_seeds = float(pair.by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    shares = of_seeds**2 / max(1, seeds - 1) + of_documents**2 / max(1, documents - 1)
    df = (of_seeds + of_documents) ** 2 / shares if shares else np.inf
    se = float(np.sqrt(joint + of_seeds / seeds))
    return Difference(pair.estimate, se, float(df), seeds, documents, float(np.sqrt(of_seeds)))


def _draws(pair: Paired, rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """(count,) differences for draws of seeds and documents, and for draws of documents alone."""
    seeds, documents = pair.sums_a.shape
    document_draws = _times(rng, documents, count)
    seed_weights = _times(rng, seeds, count) / seeds
    a, b = pair.metrics(document_draws)
    gaps = a - b
    return np.asarray((seed_weights * gaps).sum(1)), np.asarray(gaps.mean(1))


def _times(rng: np.random.Generator, size: int, count: int) -> Floats:
    """How often each of `size` items is drawn in `size` draws with replacement: (count, size)."""
    items = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
    return np.bincount(items.ravel(), minlength=count * size).reshape(count, size).astype(float)


@dataclass(frozen=True)
class McNemar:
    """Examples that only a gets right, examples that only b gets right, exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> McNemar:
    """McNemar's exact test on 0/1 outcomes of the same examples.

    The null hypothesis: among examples with different outcomes, each plan is right half the time.
    """
    a, b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    p = 1.0 if not n else float(stats.binomtest(only_a, n).pvalue)
    return McNemar(only_a, only_b, p)


def paired_t(differences: ArrayLike) -> float | None:
    """Two-sided p of a mean of zero over seeds; None if there is no variance."""
    values = np.asarray(differences, float)
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def wilcoxon(differences: ArrayLike) -> float | None:
    """Exact two-sided signed-rank p over seeds; None if all differences are zero."""
    values = np.asarray(differences, float)
    values = values[values != 0]
    if not len(values):
        return None
    has_ties = len(np.unique(np.abs(values))) < len(values)
    if not has_ties:
        return float(stats.wilcoxon(values, method="exact").pvalue)
    # The exact distribution assumes no ties; with ties, signs are permuted instead.
    return float(stats.wilcoxon(values, method=stats.PermutationMethod(n_resamples=10_000)).pvalue)


def tost(differences: ArrayLike, margin: float) -> float | None:
    """Two one-sided t-tests over seeds: p of a mean outside plus or minus `margin`."""
    values = np.asarray(differences, float)
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return 0.0 if abs(values[0]) < margin else 1.0
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(above, below))


def effect_size(differences: ArrayLike) -> float | None:
    """The mean difference divided by its standard deviation over seeds."""
    values = np.asarray(differences, float)
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    return float(values.mean() / values.std(ddof=1))


def mean_interval(values: ArrayLike) -> tuple[float, float] | None:
    """95 % interval of a mean over seeds, by Student's t; None for a single seed."""
    array = np.asarray(values, float)
    if len(array) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return float(array.mean()) - half, float(array.mean()) + half


def holm(p: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values: Holm's procedure rejects at alpha if the adjusted p is below it."""
    order = np.argsort(p, kind="stable")
    adjusted, so_far = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = so_far
    return adjusted
