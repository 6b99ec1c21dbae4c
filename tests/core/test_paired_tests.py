"""Laws of the tests that decide claims: oracles, what they cannot reach, and false alarms."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core import paired_tests
from lowbit.core.paired_tests import (
    Paired,
    bootstrap,
    effect_size,
    holm,
    mcnemar,
    paired_t,
    tost,
    wilcoxon,
)
from lowbit.study.claims import ENOUGH_SEEDS, smallest_p

P = st.floats(0, 1)


def pair(seeds: int, documents: int, gain: float, seed: int = 0, spread: float = 0.02) -> Paired:
    """Plan a is `gain` above b; every seed has its own luck, every document its own difficulty."""
    rng = np.random.default_rng(seed)
    counts = np.tile(rng.integers(50, 200, documents).astype(float), (seeds, 1))
    hard = rng.normal(0, 0.5, documents)

    def side(level: float) -> np.ndarray:
        luck = rng.normal(0, spread, (seeds, 1))
        mixed = rng.normal(0, 0.05, documents) + rng.normal(0, 0.05, (seeds, documents))
        return counts * (3 + level + hard + luck + mixed)

    return Paired(side(gain), counts, side(0.0), counts)


# --- Holm -----------------------------------------------------------------------------------------


@given(st.lists(P, max_size=7), st.floats(0.001, 0.5))
def test_holm_rejects_step_by_step(p: list[float], alpha: float) -> None:
    """As it is told: the smallest against alpha / m, the next against alpha / (m - 1), ..."""
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: (p[i], i))):
        if p[i] * (len(p) - rank) >= alpha:
            break
        rejected.add(i)
    adjusted = holm(p)
    assert {i for i, value in enumerate(adjusted) if value < alpha} == rejected
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))


# --- exact tests ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_mcnemar_is_a_fair_coin_among_those_that_differ(rows: list[tuple[bool, bool]]) -> None:
    found = mcnemar([a for a, _ in rows], [b for _, b in rows])
    n, least = found.only_a + found.only_b, min(found.only_a, found.only_b)
    assert found.only_a == sum(a and not b for a, b in rows)
    exact = min(1.0, 2 * sum(comb(n, k) for k in range(least + 1)) / 2**n)
    assert found.p == pytest.approx(exact)


@pytest.mark.parametrize("seeds", range(2, 9))
def test_wilcoxon_reaches_what_its_bound_says_and_no_less(seeds: int) -> None:
    best = wilcoxon(np.arange(1, seeds + 1) / 10)
    assert best == pytest.approx(smallest_p("wilcoxon", seeds))
    assert best == pytest.approx(2.0 ** (1 - seeds))


def test_wilcoxon_with_ties_counts_all_signs() -> None:
    values = [1.0, 1.0, 1.0, 2.0, -1.0]
    ranks = np.array([2.5, 2.5, 2.5, 5.0, 2.5])
    observed = abs(2 * ranks[:4].sum() - ranks.sum())
    signs = [abs(float(np.dot(s, ranks))) for s in product((-1, 1), repeat=5)]
    exact = np.mean([total >= observed for total in signs])
    assert wilcoxon(values) == pytest.approx(float(exact), abs=1e-9)


def test_differences_that_are_all_zero_prove_nothing() -> None:
    assert wilcoxon([0.0, 0.0]) is None
    assert paired_t([0.0, 0.0]) is None
    assert effect_size([0.3]) is None
    assert tost([0.0, 0.0], 0.1) == 0.0


def test_equivalence_is_two_t_tests() -> None:
    near = tost([0.01, -0.01, 0.0, 0.005, -0.005, 0.002], 0.05)
    far = tost([0.09, 0.11, 0.1, 0.1, 0.12, 0.08], 0.05)
    assert near is not None
    assert far is not None
    assert near < 0.01
    assert far > 0.5


# --- the bootstrap --------------------------------------------------------------------------------


def test_equal_scores_have_no_difference() -> None:
    one = pair(6, 40, 0.0)
    same = Paired(one.sums_a, one.counts_a, one.sums_a, one.counts_a)
    found = bootstrap(same, np.random.default_rng(0), 500)
    assert (found.estimate, found.low, found.high) == (0, 0, 0)
    assert found.p_two_sided() == 1.0


def test_the_estimate_is_the_mean_over_seeds_of_ratios() -> None:
    one = pair(3, 20, 0.1)
    a = [sum(s) / sum(c) for s, c in zip(one.sums_a, one.counts_a, strict=True)]
    b = [sum(s) / sum(c) for s, c in zip(one.sums_b, one.counts_b, strict=True)]
    found = bootstrap(one, np.random.default_rng(0), 200)
    assert found.estimate == pytest.approx(np.mean(a) - np.mean(b))
    assert found.low < found.estimate < found.high
    turned = Paired(one.sums_b, one.counts_b, one.sums_a, one.counts_a)
    assert turned.estimate == pytest.approx(-one.estimate)


def test_a_perplexity_is_the_exponential_of_each_seeds_ratio() -> None:
    one = pair(4, 20, 0.1)
    told = Paired(one.sums_a, one.counts_a, one.sums_b, one.counts_b, exponential=True)
    a, b = one.metrics()
    assert told.estimate == pytest.approx(float(np.mean(np.exp(a) - np.exp(b))))
    assert bootstrap(told, np.random.default_rng(0), 300).low > 0 or told.estimate < 1


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.05])
def test_false_alarms_stay_near_alpha(spread: float) -> None:
    """No gain, whether seeds differ much or not at all: at most the stated rate, with its error."""
    rng = np.random.default_rng(1)
    studies = [pair(ENOUGH_SEEDS, 40, 0.0, seed, spread) for seed in range(300)]
    alarms = np.mean([bootstrap(one, rng, 300).p_two_sided() < 0.05 for one in studies])
    assert alarms <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_a_plain_gain_is_found() -> None:
    rng = np.random.default_rng(1)
    found = [bootstrap(pair(6, 40, 0.1, seed), rng, 400).p_two_sided() for seed in range(40)]
    assert np.mean([p < 0.05 for p in found]) > 0.95


def test_margins_are_asked_one_sided() -> None:
    found = bootstrap(pair(6, 60, 0.1), np.random.default_rng(0), 2000)
    assert found.p_above(0.0) < 0.01 < found.p_above(0.1)
    assert found.p_below(0.3) < 0.01 < found.p_below(0.05)
    assert found.p_within(0.3) < 0.01 < found.p_within(0.05)


def test_too_few_seeds_can_decide_nothing() -> None:
    assert all(smallest_p("bootstrap", n) == 1.0 for n in range(ENOUGH_SEEDS))
    assert smallest_p("bootstrap", ENOUGH_SEEDS) == 0.0
    assert smallest_p("t", 1) == 1.0
    assert smallest_p("wilcoxon", 6) == 1 / 32


def test_scores_must_be_paired() -> None:
    rows = np.ones((2, 3))
    with pytest.raises(ValueError, match="seeds, documents"):
        Paired(rows, rows, np.ones((2, 4)), rows)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_a_means_interval_holds_the_mean(values: list[float]) -> None:
    found = paired_tests.mean_interval(values)
    assert found is not None
    assert found[0] <= np.mean(values) + 1e-9
    assert found[1] >= np.mean(values) - 1e-9
    assert paired_tests.mean_interval(values[:1]) is None
