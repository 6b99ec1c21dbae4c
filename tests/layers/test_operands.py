"""Products with int8 activations: exact integers, scales by row, the same in every residency."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, RunSpec, TaskSpec, TrainSpec
from lowbit.layers.frozen import FrozenMatrix
from lowbit.layers.operands import DenseOperand, Int8Operand, integer_product, quantise_rows
from lowbit.quant.codec import encode
from lowbit.quant.formats import parse
from lowbit.runs.device import compute_of

SIZES = st.integers(1, 40)


@given(rows=SIZES, inner=SIZES, columns=SIZES, seed=st.integers(0, 99))
def test_a_product_is_the_integers_product_times_both_scales(
    rows: int, inner: int, columns: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, inner), torch.randn(columns, inner)
    operand = Int8Operand.of(weight)
    codes, scale = quantise_rows(x)
    exact = codes.double() @ operand.codes.double().t() * scale.double() * operand.scale.double()
    torch.testing.assert_close(operand.product(x).double(), exact, rtol=1e-5, atol=1e-30)
    grad = torch.randn(rows, columns)
    codes, scale = quantise_rows(grad * operand.scale)
    exact = codes.double() @ operand.codes.double() * scale.double()
    torch.testing.assert_close(operand.input_gradient(grad).double(), exact, rtol=1e-5, atol=1e-30)


@given(seed=st.integers(0, 99), wide=st.floats(1e-6, 1e6))
def test_rounding_a_row_moves_no_number_by_more_than_half_a_step(seed: int, wide: float) -> None:
    torch.manual_seed(seed)
    x = torch.randn(5, 33) * wide
    codes, scale = quantise_rows(x)
    assert ((codes * scale - x).abs() <= 0.501 * scale).all()
    assert int(codes.abs().amax()) == 127


def test_int8_products_are_close_to_dense_ones_in_both_directions() -> None:
    torch.manual_seed(0)
    x, weight, grad = torch.randn(64, 96), torch.randn(48, 96), torch.randn(64, 48)
    dense, int8 = DenseOperand(weight), Int8Operand.of(weight)
    for exact, rounded in (
        (dense.product(x), int8.product(x)),
        (dense.input_gradient(grad), int8.input_gradient(grad)),
    ):
        assert 0 < (exact - rounded).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_and_decoded_residency_give_the_same_results(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packed = encode(torch.randn(48, 96), parse("nf4@32"))
    x, grad = torch.randn(2, 7, 96).to(dtype), torch.randn(2, 7, 48).to(dtype)
    results = []
    for residency in ("packed", "decoded"):
        frozen = FrozenMatrix(packed, residency, int8=True)
        operand = frozen.operand(dtype)
        results.append((operand.product(x), operand.input_gradient(grad)))
    for a, b in zip(*results, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, b)


def test_a_row_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    operand, x = Int8Operand.of(torch.randn(8, 16)), torch.randn(5, 16)
    assert torch.equal(operand.product(x)[2:3], operand.product(x[2:3]))


def test_nan_and_zeros_are_kept() -> None:
    operand, x = Int8Operand.of(torch.randn(8, 16)), torch.zeros(2, 16)
    x[1, 3] = torch.nan
    y = operand.product(x)
    assert (y[0] == 0).all()
    assert y[1].isnan().all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_gpu_multiplies_the_same_integers() -> None:
    x = torch.randint(-127, 128, (3, 20), dtype=torch.int8)
    weight = torch.randint(-127, 128, (20, 5), dtype=torch.int8)
    product = integer_product(x.cuda(), weight.cuda())
    assert torch.equal(product.cpu(), integer_product(x, weight))


def test_other_products_are_computed_as_auto_would() -> None:
    assert compute_of(Execution(device="cpu", measured="fp32"), "int8") == "int8+fp32"
    assert compute_of(Execution(device="cpu", measured="bf16"), "int8") == "int8+bf16"


def test_int8_is_part_of_what_a_run_is() -> None:
    run = RunSpec("m", TaskSpec("t"), Plan("p"), TrainSpec(), 0)
    other = RunSpec("m", TaskSpec("t"), Plan("p"), TrainSpec(compute="int8"), 0)
    assert run.fingerprint != other.fingerprint
