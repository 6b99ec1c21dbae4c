"""Is one plan better than another? Tests on paired scores; effect first, p-value second.

Every array of scores is (seeds, documents): the same seeds and the same documents on both sides.
A plan's metric is the ratio of sums to counts over documents, averaged over seeds, so a sentence
or a document weighs the same in every seed.

The deciding test draws seeds and documents at once, both with replacement. Each resample has the
spread of both, and counts the interaction of the two twice, so its variance is a little too large
rather than too small (Owen 2007, the pigeonhole bootstrap). The others answer narrower questions:
McNemar's is about one trained model and other sentences, t and Wilcoxon about other seeds and
these sentences.
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

    `exponential`: the metric is the exponential of a seed's ratio, a perplexity.
    """

    sums_a: Floats
    counts_a: Floats
    sums_b: Floats
    counts_b: Floats
    exponential: bool = False

    def __post_init__(self) -> None:
        shapes = {np.shape(a) for a in (self.sums_a, self.counts_a, self.sums_b, self.counts_b)}
        if len(shapes) != 1 or len(shapes.pop()) != 2:
            raise ValueError("four arrays of (seeds, documents), all alike")

    def metrics(self, chosen: Floats | None = None) -> tuple[Floats, Floats]:
        """The metric of every seed under both plans, each (..., seeds).

        `chosen` (..., documents): how often each document is drawn; None: once.
        """
        weights = np.ones(self.sums_a.shape[1]) if chosen is None else chosen
        one = (weights @ self.sums_a.T) / (weights @ self.counts_a.T)
        two = (weights @ self.sums_b.T) / (weights @ self.counts_b.T)
        return (np.exp(one), np.exp(two)) if self.exponential else (one, two)

    @property
    def by_seed(self) -> Floats:
        """The difference of every seed: (seeds,)."""
        one, two = self.metrics()
        return np.asarray(one - two)

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
    """a - b with its standard error and 95 % interval by Student's t with `df` degrees.

    `seed_se`: what of the error is the seeds', and would shrink with more of them.
    """

    estimate: float
    se: float
    df: float
    seeds: int
    documents: int
    seed_se: float = 0.0

    @property
    def low(self) -> float:
        return self.estimate - self._reach

    @property
    def high(self) -> float:
        return self.estimate + self._reach

    @property
    def _reach(self) -> float:
        return float(stats.t.ppf(0.975, self.df)) * self.se if self.se else 0.0

    def p_two_sided(self) -> float:
        """Against no difference."""
        return min(1.0, 2 * min(self.p_above(0.0), self.p_below(0.0)))

    def p_above(self, margin: float) -> float:
        """One-sided, against a difference of at most `margin`."""
        away = self.estimate - margin
        if not self.se:
            return 0.0 if away > 0 else 1.0
        return float(stats.t.sf(away / self.se, self.df))

    def p_below(self, margin: float) -> float:
        """One-sided, against a difference of at least `margin`."""
        return replace(self, estimate=-self.estimate).p_above(-margin)

    def p_within(self, margin: float) -> float:
        """Two one-sided tests: against a difference outside plus or minus `margin`."""
        return max(self.p_above(-margin), self.p_below(margin))


def bootstrap(pair: Paired, rng: np.random.Generator, resamples: int = 10_000) -> Difference:
    """Seeds and documents drawn together, the same draw for both plans.

    Drawing n seeds with replacement shows (n - 1) / n of their variance; the rest is added. Six
    seeds do not make a normal distribution, so the error is Student's, with degrees of freedom
    between those of the seeds and those of the documents, by their shares (Satterthwaite).
    """
    seeds, documents = pair.sums_a.shape
    parts = [
        _draws(pair, rng, min(DRAWS_AT_A_TIME, resamples - start))
        for start in range(0, resamples, DRAWS_AT_A_TIME)
    ]
    both = float(np.concatenate([together for together, _ in parts]).var(ddof=1))
    of_documents = float(np.concatenate([alone for _, alone in parts]).var(ddof=1))
    of_seeds = float(pair.by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    shares = of_seeds**2 / max(1, seeds - 1) + of_documents**2 / max(1, documents - 1)
    df = (of_seeds + of_documents) ** 2 / shares if shares else np.inf
    se = float(np.sqrt(both + of_seeds / seeds))
    return Difference(pair.estimate, se, float(df), seeds, documents, float(np.sqrt(of_seeds)))


def _draws(pair: Paired, rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    """(count,) differences with seeds and documents drawn, and with documents alone drawn."""
    seeds, documents = pair.sums_a.shape
    chosen, drawn = _times(rng, documents, count), _times(rng, seeds, count) / seeds
    one, two = pair.metrics(chosen)
    apart = one - two
    return np.asarray((drawn * apart).sum(1)), np.asarray(apart.mean(1))


def _times(rng: np.random.Generator, size: int, count: int) -> Floats:
    """How often each of `size` is drawn in `size` draws with replacement: (count, size)."""
    places = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
    return np.bincount(places.ravel(), minlength=count * size).reshape(count, size).astype(float)


@dataclass(frozen=True)
class McNemar:
    """Right with a and wrong with b, the other way round, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> McNemar:
    """Exact, on 0/1 outcomes of the same examples: a fair coin among those that differ."""
    a, b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    p = 1.0 if not n else float(stats.binomtest(only_a, n).pvalue)
    return McNemar(only_a, only_b, p)


def paired_t(differences: ArrayLike) -> float | None:
    """Two-sided p of a mean of zero over seeds; None where there is nothing to vary."""
    values = np.asarray(differences, float)
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def wilcoxon(differences: ArrayLike) -> float | None:
    """Exact two-sided signed-rank p over seeds; None where all differences are zero."""
    values = np.asarray(differences, float)
    values = values[values != 0]
    if not len(values):
        return None
    tied = len(np.unique(np.abs(values))) < len(values)
    if not tied:
        return float(stats.wilcoxon(values, method="exact").pvalue)
    # With ties the table does not hold: all signs are tried instead.
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
    """Mean difference over its standard deviation across seeds."""
    values = np.asarray(differences, float)
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    return float(values.mean() / values.std(ddof=1))


def mean_interval(values: ArrayLike) -> tuple[float, float] | None:
    """95 % interval of a mean over seeds by Student's t; None for a single one."""
    array = np.asarray(values, float)
    if len(array) < 2:
        return None
    reach = float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return float(array.mean()) - reach, float(array.mean()) + reach


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: below alpha exactly where Holm's procedure rejects at alpha."""
    order = np.argsort(p, kind="stable")
    adjusted, so_far = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        so_far = max(so_far, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = so_far
    return adjusted
