"""Predictions of whole plans from a table, with their spreads."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lowbit.sensitivity.predictors import best_formula, predictions, remaining_share
from lowbit.sensitivity.table import SensitivityTable


def test_predictions_hold_the_first_order_and_their_errors(table: SensitivityTable) -> None:
    whole = table.whole["int4@16"]
    by_name = predictions(whole)
    assert by_name["taylor"].gap == pytest.approx(whole.first_order + whole.taylor)
    assert by_name["loss"].gap == whole.loss
    assert by_name["hutchinson"].spread > by_name["kfac"].spread == pytest.approx(whole.loss_spread)
    assert by_name["kl"].low < by_name["kl"].gap < by_name["kl"].high
    assert {n for n, prediction in by_name.items() if prediction.runs_model} == {
        "monte_carlo",
        "kl",
        "loss",
    }


def test_ranks_leave_what_they_do_not_take_back(table: SensitivityTable) -> None:
    blocks = {s.name: "int2@16" for s in table.sites if s.reach is not None}
    shares = [
        remaining_share(table, blocks, dict.fromkeys(blocks, rank)) for rank in (0, 1, 2, 4, 16)
    ]
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
    reach = next(s.reach for s in table.sites if s.reach is not None)
    between = reach.absorbed_share("int2@16", 2)
    assert reach.absorbed_share("int2@16", 1) < between < reach.absorbed_share("int2@16", 4)


def test_below_four_bits_another_predictor_is_believed() -> None:
    assert best_formula("int8@64") == best_formula("nf4@64") == best_formula("int3@64") == "taylor"
    assert best_formula("int2@64") == best_formula("ternary@64") == "kfac"


def test_what_training_takes_back_takes_its_error_with_it(table: SensitivityTable) -> None:
    """The first order stays, and so does its own; of second order everything shrinks alike."""
    whole = replace(table.whole["int4@16"], loss_spread=5.0, kl_spread=3.0, curved_spread=2.0)
    first = whole.first_order
    full, half, none = (predictions(whole, share) for share in (1.0, 0.5, 0.0))
    for name in full:
        assert half[name].gap == pytest.approx(first + 0.5 * (full[name].gap - first))
        assert none[name].gap == pytest.approx(first)
        assert none[name].spread == pytest.approx(4.0), "what the KL's error leaves of the loss's"
    assert full["kl"].spread == pytest.approx(5.0)
    assert half["kl"].spread == pytest.approx(math.hypot(4, 1.5))
    assert half["gauss_newton"].spread == pytest.approx(math.hypot(4, 1.5, 1))
    steady = predictions(replace(whole, loss_spread=2.0), 0.5)
    assert steady["kl"].spread == pytest.approx(1.0), "a KL that scatters more than the loss"
