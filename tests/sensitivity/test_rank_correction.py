"""What a low-rank correction can absorb, and the best step of each rank."""

from __future__ import annotations

import pytest
import torch

from lowbit.curvature.site_curvature import Factors
from lowbit.sensitivity.rank_correction import STEP_DAMPING, GradientSteps, Roots, metric
from lowbit.sensitivity.table import SensitivityTable


def test_more_rank_takes_back_more_and_full_rank_all(table: SensitivityTable) -> None:
    for site in table.sites:
        if site.reach is None:
            continue
        for shares in site.reach.absorbed.values():
            assert list(shares) == sorted(shares)
            assert 0 <= shares[0] <= shares[-1] <= 1 + 1e-5
        assert site.reach.gains == (), "not asked for"


def test_shares_are_eckart_youngs_in_the_metric_of_the_factors() -> None:
    source = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=source)
    other = torch.randn(5, 5, generator=source)
    factors = Factors(inputs=root @ root.t(), outputs=other @ other.t())
    error = torch.randn(5, 6, generator=source)
    assert Roots.of(metric(factors)).absorbed(error, (5,))[0] == pytest.approx(1.0)
    plain = metric(Factors(inputs=torch.eye(6), outputs=torch.eye(5)))
    singular = torch.linalg.svdvals(error).square()
    expected = float(singular[:2].sum() / singular.sum())
    shares = [Roots.of(plain).absorbed(by * error, (2,)) for by in (1, 3, 0)]
    assert shares[0] == pytest.approx((expected,), rel=1e-4)
    assert shares[1] == pytest.approx(shares[0])
    assert shares[2] == (0.0,)


def test_a_rank_wins_what_both_halves_of_the_text_agree_on() -> None:
    source = torch.Generator().manual_seed(0)
    plain = metric(Factors(inputs=torch.eye(40), outputs=torch.eye(30)))
    drawn = torch.randn(3, 30, 40, generator=source)
    signal = 3 * torch.outer(drawn[0, :, 0], drawn[1, 0])
    singular = torch.linalg.svdvals(signal).square()
    ranks, damped = (1, 4, 30), 1 / (1 + STEP_DAMPING) ** 2
    won = GradientSteps.of(plain, signal, signal, 30).gains(ranks)
    assert won[0] == pytest.approx(0.5 * damped * float(singular[0]), rel=1e-3)
    assert won == pytest.approx([won[0]] * 3, rel=1e-3), "a signal of rank one"
    noisy = GradientSteps.of(plain, signal + drawn[1], signal + drawn[2], 30).gains(ranks)
    assert noisy == pytest.approx([won[0]] * 3, rel=0.1), "noise has no two halves alike"
    noise = GradientSteps.of(plain, drawn[1], drawn[2], 30).gains(ranks)
    alike = GradientSteps.of(plain, drawn[1], drawn[1], 30).gains(ranks)
    assert max(noise) < 0.1 * max(alike)
    assert list(noise) == sorted(noise)


def test_a_step_of_a_rank_is_the_best_of_its_rank_down_the_gradient() -> None:
    source = torch.Generator().manual_seed(0)
    root, other, slope = (torch.randn(n, n, generator=source) for n in (6, 6, 6))
    sides = metric(Factors(inputs=root @ root.t(), outputs=other @ other.t()))
    ascent = GradientSteps.of(sides, slope, slope, 30)
    for rank in (1, 3, 6):
        step = ascent.step(rank).matrix()
        assert int(torch.linalg.matrix_rank(step, rtol=1e-4)) == rank
        # Half of what it wins to first order goes to the second, where it is of the right length.
        won = ascent.gains((rank,))[0]
        assert -0.5 * float((step * slope).sum()) == pytest.approx(won, rel=1e-4)
