"""Laws of the statistics: what may not change them, and what they must equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core import stats
from lowbit.core.stats import Gap, correlation_of_decades, mean_and_spread, paired_gap, ratio

SEEDS = st.integers(0, 2**32 - 1)


def scored(seed: int, examples: int = 40, documents: int = 9) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 200, examples).astype(float)
    a, b = (counts * rng.normal(mean, 0.5, examples) for mean in (3.2, 3.0))
    return a, counts, b, counts, np.arange(examples) % documents


def gap(columns: tuple[np.ndarray, ...], seed: int = 0, resamples: int = 200) -> Gap:
    return paired_gap(*columns, np.random.default_rng(seed), resamples)


def near(one: Gap, two: Gap) -> bool:
    ours, theirs = (np.array([g.estimate, g.se, g.low, g.high], float) for g in (one, two))
    return bool(np.allclose(ours, theirs, rtol=1e-9, atol=1e-12))


@given(SEEDS)
def test_the_order_of_examples_does_not_matter(seed: int) -> None:
    columns = scored(seed)
    order = np.random.default_rng(seed).permutation(len(columns[0]))
    shuffled = tuple(column[order] for column in columns)
    assert near(gap(columns), gap(shuffled))
    assert np.isclose(ratio(*columns[:2]), ratio(*shuffled[:2]), rtol=1e-12)


@given(SEEDS)
def test_the_same_generator_gives_the_same_gap(seed: int) -> None:
    columns = scored(seed)
    assert gap(columns, seed) == gap(columns, seed)


def test_the_size_of_a_block_does_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gap(scored(1))
    monkeypatch.setattr(stats, "BLOCK", 50)
    assert gap(scored(1)) == whole


@given(SEEDS)
def test_the_estimate_is_the_difference_of_ratios(seed: int) -> None:
    a, counts, b, _, _ = columns = scored(seed)
    assert np.isclose(gap(columns).estimate, ratio(a, counts) - ratio(b, counts), rtol=1e-9)


@given(SEEDS)
def test_swapping_the_sides_turns_the_sign(seed: int) -> None:
    a, na, b, nb, documents = scored(seed)
    there, back = gap((a, na, b, nb, documents)), gap((b, nb, a, na, documents))
    assert np.isclose(there.estimate, -back.estimate)
    assert np.isclose(there.low, -back.high)


def test_a_side_against_itself_has_no_gap_and_no_error() -> None:
    a, counts, _, _, documents = scored(3)
    none = gap((a, counts, a, counts, documents))
    assert (none.estimate, none.se, none.low, none.high) == (0, 0, 0, 0)


@given(SEEDS)
def test_with_one_example_a_document_the_error_is_the_paired_closed_form(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, resamples = 60, 4000
    ones, difference = np.ones(n), rng.normal(0.1, 1.0, n)
    b = rng.normal(3.0, 1.0, n)
    found = paired_gap(b + difference, ones, b, ones, np.arange(n), rng, resamples)
    closed = difference.std() / np.sqrt(n)
    assert found.se is not None
    # The error of a standard deviation from `resamples` draws is 1 / sqrt(2 resamples): 1.1 %.
    assert abs(found.se / closed - 1) < 5 / np.sqrt(2 * resamples)
    assert np.isclose(found.estimate, difference.mean())


def test_examples_of_one_document_are_not_independent() -> None:
    rng = np.random.default_rng(0)
    shift = np.repeat(rng.normal(0, 1, 20), 30)
    ones, documents = np.ones(600), np.repeat(np.arange(20), 30)
    clustered = gap((shift, ones, 0 * shift, ones, documents))
    naive = gap((shift, ones, 0 * shift, ones, np.arange(600)))
    assert clustered.se is not None
    assert naive.se is not None
    assert clustered.se > 3 * naive.se


def test_one_document_has_an_estimate_and_no_error() -> None:
    a, counts, b, _, documents = scored(4)
    alone = gap((a, counts, b, counts, 0 * documents))
    assert (alone.se, alone.low, alone.high, alone.documents) == (None, None, None, 1)


def test_documents_without_a_count_change_nothing() -> None:
    columns = scored(5)
    padded = tuple(np.append(c, v) for c, v in zip(columns, (0, 0, 0, 0, 99), strict=True))
    assert gap(columns) == gap(padded)


def test_a_document_scored_on_one_side_only_is_refused() -> None:
    a, na, b, nb, documents = scored(6)
    nb = np.where(documents == 2, 0, nb)
    with pytest.raises(ValueError, match="one of the two runs"):
        gap((a, na, b, nb, documents))


def test_unequal_lengths_and_empty_counts_are_refused() -> None:
    a, na, b, nb, documents = scored(7)
    with pytest.raises(ValueError, match="the shape"):
        gap((a, na, b, nb, documents[:-1]))
    with pytest.raises(ValueError, match="positive"):
        gap((a, 0 * na, b, 0 * nb, documents))
    with pytest.raises(ValueError, match="positive"):
        ratio([1.0], [0.0])


def test_ratio_sums_over_the_last_axis() -> None:
    assert ratio([[1, 3], [2, 2]], [[2, 2], [1, 3]]).tolist() == [1.0, 1.0]


def test_one_seed_has_a_mean_and_no_spread() -> None:
    assert mean_and_spread([2.0]) == stats.Spread(2.0, None, 1)
    two = mean_and_spread([1.0, 3.0])
    assert (two.mean, two.count) == (2.0, 2)
    assert two.sd == pytest.approx(np.sqrt(2))
    with pytest.raises(ValueError, match="one value per seed"):
        mean_and_spread([])


def test_the_largest_pair_alone_decides_no_correlation_of_decades() -> None:
    """A gap that is ten thousand times the others' makes any straight line fit as they are."""
    pairs = [(1e-4, 3e-4), (3e-4, 1e-4), (2e-4, 2e-4), (2.0, 2.0)]
    found, count = correlation_of_decades([*pairs, (-1.0, 1.0), (1.0, 0.0)])
    logs = np.log(pairs)
    assert count == 4
    assert found == pytest.approx(np.corrcoef(logs.T)[0, 1])
    assert np.corrcoef(np.array(pairs).T)[0, 1] > 0.9999 > 0.99 > found
    same = [(0.1, 1.0), (0.1, 2.0), (0.1, 3.0)]
    assert correlation_of_decades(same) == (None, 3)
    assert correlation_of_decades(pairs[:2]) == (None, 2)
    assert correlation_of_decades([]) == (None, 0)
