"""Hutchinson's estimate agrees with the sites' other estimates and knows its own spread."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.sensitivity import REQUEST

from lowbit.curvature.measured_model import MeasuredModel
from lowbit.sensitivity.build_table import build_table
from lowbit.sensitivity.hessian import products
from lowbit.sensitivity.hutchinson import hutchinson
from lowbit.sensitivity.predictors import predictions
from lowbit.sensitivity.table import SensitivityTable


def test_a_walk_has_every_predictor_of_every_site(
    model: MeasuredModel, table: SensitivityTable
) -> None:
    for site in table.sites:
        for damage in site.damages.values():
            assert damage.hutchinson_spread is not None
            assert damage.hutchinson_spread > 0
            assert damage.gauss_newton is not None
            assert damage.gauss_newton >= 0
            assert damage.taylor_alone is not None
            assert damage.monte_carlo is not None
    site = model.block_sites[2]
    (row,) = [s for s in table.sites if s.name == site.name]
    # At small errors the outputs' own curvature is what their divergence is made of.
    eight = row.damages["int8@16"]
    assert eight.measured is not None
    assert eight.gauss_newton == pytest.approx(
        eight.measured - eight.first_order, rel=0.1, abs=1e-7
    )
    traces = hutchinson(model, REQUEST, lambda *_: None)
    error = model.error(site.name, "int4@16")
    draws = traces.costs(site.name, float(error.square().sum()))
    four = row.damages["int4@16"]
    assert four.hutchinson == pytest.approx(np.mean(draws), rel=1e-4)
    assert four.hutchinson_spread == pytest.approx(np.std(draws, ddof=1) / 3**0.5, rel=1e-4)


def test_what_few_sequences_say_of_second_order_has_a_spread(model: MeasuredModel) -> None:
    """Of documents: two sequences of one count once."""
    request = replace(REQUEST, formats=("int4@16",), walk=False)
    few = MeasuredModel(model.module, model.sites, model.batches, curved=(0, 2))
    errors = {s.name: model.error(s.name, "int4@16") for s in model.sites}
    full = {n: e if n in {b.name for b in model.block_sites} else 0 * e for n, e in errors.items()}
    each = [
        0.5 * products(model.module, model.sites, [batch], full).sums[0] / sum(batch.labels)
        for batch in few.subset
    ]
    whole = build_table(few, request, ("t", "t")).whole["int4@16"]
    expected = abs(each[0] - each[1]) / 2  # of the mean of two, as long as each other
    assert whole.curved_spread == pytest.approx(expected, rel=0.05)
    by_name = predictions(whole)
    wide = math.hypot(whole.loss_spread, whole.curved_spread)
    assert by_name["gauss_newton"].spread == pytest.approx(wide, rel=1e-3)
    for name in ("taylor", "kfac"):
        assert by_name[name].spread == pytest.approx(whole.loss_spread), (
            "which are taken on all of them"
        )
