"""The gain of rank: what one step of each rank wins on a tiny model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from helpers.sensitivity import REQUEST, Folder, all_curvature, tiny_measured

from lowbit.curvature.measured_model import shifted
from lowbit.sensitivity.build_table import build_table
from lowbit.sensitivity.rank_correction import GradientSteps, metric
from lowbit.sensitivity.rank_gain import LENGTH_RATIO, MANY_STEPS, peak_gain


def test_ranks_are_worth_what_a_step_of_each_really_wins(tiny_model: Folder) -> None:
    model = tiny_measured(tiny_model("llama"))
    request = replace(REQUEST, walk=False, uniform=False, exact=False, samples=0, costed=True)
    table = build_table(model, request, ("tiny", "text"))
    reaches = [site.reach for site in table.sites if site.reach is not None]
    for reach in reaches:
        assert list(reach.gains) == sorted(reach.gains)
        assert reach.gains[0] >= 0
    curved = all_curvature(model)
    half = model.batches[1::2]
    base, won = model.loss_on(half), []
    for rank in (1, 16):
        steps = {
            s.name: GradientSteps.of(
                metric(curved.factors[s.name]), *(curved.halves[s.name] or ()), most=16
            )
            .step(rank)
            .matrix()
            for s in model.block_sites
        }
        tried, length = [0.0], 1e-4
        while tried[-1] >= tried[-2:][0]:
            with shifted(model, {name: length * step for name, step in steps.items()}):
                tried.append(base - model.loss_on(half))
            length *= 1.1
        won.append(max(tried))
    total = sum(reach.gains[-1] - reach.gains[0] for reach in reaches)
    assert total == pytest.approx(MANY_STEPS * max(0.0, won[1] - won[0]), rel=0.2, abs=1e-5)


@pytest.mark.parametrize("win", [3.0, 0.5, 0.02, 1e-3])
def test_a_step_wins_what_the_hill_is_high_however_short_it_must_be(win: float) -> None:
    """A quadratic hill beside a loss of 4: its top is where first order wins twice its height."""

    def won(place: int) -> float:
        length = LENGTH_RATIO**place
        return 4 / 2 * length - (4 / 2 * length) ** 2 / (4 * win)

    assert peak_gain(won) == pytest.approx(win, rel=0.1)
    assert peak_gain(lambda place: -1.0) == 0.0
    assert peak_gain(lambda place: math.nan) == 0.0
