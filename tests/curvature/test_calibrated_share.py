"""The share of damage that calibrated rounding leaves: closed forms, and rounding itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lowbit.curvature.calibrated_share import ColumnCosts, SharedColumns, ShareSums
from lowbit.quant.calibrated import encode_calibrated, output_error
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse
from lowbit.quant.input_metric import InputMetric, left_by_later_columns


def share(columns: ColumnCosts | None, error: Tensor, outputs: Tensor | None = None) -> float:
    assert columns is not None
    sums = ShareSums(columns)
    sums.add(error, torch.ones(len(error)) if outputs is None else outputs)
    return sums.share


def moment_of(seed: int, columns: int, strength: float) -> Tensor:
    """Inputs that have some directions in common."""
    source = torch.Generator().manual_seed(seed)
    common = torch.randn(columns, columns // 4, generator=source)
    return torch.eye(columns) + strength * common @ common.t()


def test_two_columns_by_hand() -> None:
    """The larger input is rounded first, and the other one makes up for its error."""
    columns = ColumnCosts.of(torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
    assert columns is not None
    assert columns.alone.tolist() == [4.0, 1.0]
    assert columns.made_up.tolist() == pytest.approx([3.0, 1.0], rel=0.03)  # damped by 1 %


def test_inputs_that_know_nothing_of_each_other_leave_all_of_it() -> None:
    columns = ColumnCosts.of(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    assert share(columns, torch.ones(2, 3)) == 1.0


@given(st.integers(0, 50), st.sampled_from([0.1, 1.0, 5.0]))
@settings(max_examples=20, deadline=None)
def test_the_share_is_what_rounding_leaves(seed: int, strength: float) -> None:
    """With steps so fine that a rounding error is uniform, whatever was added to a weight."""
    moment, spec = moment_of(seed, 32, strength), parse("int8@row")
    source = torch.Generator().manual_seed(seed + 1)
    weight = torch.randn(64, 32, generator=source)
    nearest = encode(weight, spec)
    predicted = share(ColumnCosts.of(moment), decode(nearest) - weight)
    left = output_error(weight, encode_calibrated(weight, spec, moment), moment).sum()
    seen = float(left / output_error(weight, nearest, moment).sum())
    assert predicted == pytest.approx(seen, rel=0.25)


@pytest.mark.parametrize("quant", ["int4@8", "int4@row"])
def test_the_costs_are_those_that_rounding_goes_by(quant: str) -> None:
    """One over the squared diagonal of its factor, which is computed in another way."""
    moment, spec = moment_of(5, 32, 5.0), parse(quant)
    metric, left = InputMetric.of(moment, spec), left_by_later_columns(moment, spec)
    assert left is not None
    assert torch.allclose(left[metric.order], metric.factor.diagonal() ** -2, rtol=1e-4)


def test_rows_count_by_their_outputs() -> None:
    columns = ColumnCosts.of(moment_of(0, 8, 1.0))
    error = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    for row in (0, 1):
        outputs = torch.zeros(2)
        outputs[row] = 5.0
        assert share(columns, error, outputs) == pytest.approx(share(columns, error[[row]]))


def test_an_error_of_nothing_and_inputs_that_are_none_leave_all_of_it() -> None:
    assert share(ColumnCosts.of(moment_of(0, 8, 1.0)), torch.zeros(2, 8)) == 1.0
    assert ColumnCosts.of(torch.full((2, 2), float("nan"))) is None
    assert SharedColumns().of(None, "embedding") is None


def test_a_tied_embedding_counts_every_direction_as_well() -> None:
    moment = moment_of(0, 16, 5.0)
    error = torch.ones(1, 16)
    tied, head = (SharedColumns().of(moment, role) for role in ("embedding", "head"))
    assert share(tied, error) > share(head, error)
