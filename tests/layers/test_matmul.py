"""Laws of products: the same numbers by either library, and a rule that only machines decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lowbit.layers import matmul
from lowbit.layers.autograd import AdaptedProduct, FrozenProduct
from lowbit.layers.frozen import FrozenMatrix
from lowbit.quant.codec import encode
from lowbit.quant.formats import parse

Make = Callable[..., Tensor]
needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where MKL holds back, however small the product."""
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: True)
    monkeypatch.setattr(matmul, "SMALL", 1)


@pytest.fixture
def make() -> Make:
    source = torch.Generator().manual_seed(4)
    return lambda *shape: torch.randn(*shape, generator=source)


@pytest.fixture
def afresh() -> Iterator[None]:
    """The rule is asked again, before and after."""
    matmul.prefers_onednn.cache_clear()
    yield
    matmul.prefers_onednn.cache_clear()


SHAPES: dict[str, Callable[[Make], Tensor]] = {
    "rows": lambda make: make(37, 48),
    "examples of rows": lambda make: make(3, 5, 48),
    "a row": lambda make: make(1, 48),
    "none": lambda make: make(0, 48),
    "turned": lambda make: make(48, 37).t(),
    "cut out": lambda make: make(37, 99)[:, 7:55],
    "one for all": lambda make: make(1, 48).expand(37, 48),
}


@needs_onednn
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", ["no", "yes", "strided"])
def test_a_product_is_what_torch_says(shape: str, biased: str, make: Make, quick: None) -> None:
    x, weight = SHAPES[shape](make), make(29, 48)
    bias = {"no": None, "yes": make(29), "strided": make(58)[::2]}[biased]
    torch.testing.assert_close(matmul.linear(x, weight, bias), F.linear(x, weight, bias))
    torch.testing.assert_close(matmul.input_gradient(x, weight.t()), x @ weight.t())


@pytest.mark.parametrize("most", [100, 1000, 3000])
def test_numbers_of_rows_are_rounded_to_few_and_by_little(most: int) -> None:
    found = [matmul.padded_rows(rows) for rows in range(most // 2, most)]
    assert all(0 <= up - rows <= max(15, rows / 8) for rows, up in enumerate(found, most // 2))
    assert len(set(found)) <= 10


@pytest.mark.skipif(not matmul.prefers_onednn(), reason="a law where oneDNN is asked")
def test_no_row_depends_on_those_beside_it(make: Make, quick: None) -> None:
    x, weight = make(200, 384), make(96, 384)
    whole = matmul.linear(x, weight)
    for rows in (1, 17, 90, 130):
        assert torch.equal(matmul.linear(x[:rows], weight), whole[:rows])


@needs_onednn
@pytest.mark.parametrize("adapted", [False, True])
def test_layers_and_their_gradients_are_the_same_by_either_library(
    adapted: bool, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = FrozenMatrix(encode(0.1 * make(24, 44), parse("int4@16")))
    x, A, B, bias, slope = make(5, 9, 44), make(3, 44), make(24, 3), make(24), make(5, 9, 24)

    def found() -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, A, B)]
        y = (
            AdaptedProduct.apply(leaves[0], None, *leaves[1:], 2.0, frozen, bias)
            if adapted
            else FrozenProduct.apply(leaves[0], frozen, bias)
        )
        y.backward(slope)
        return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    monkeypatch.setattr(matmul, "prefers_onednn", lambda: False)
    plain = found()
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: True)
    monkeypatch.setattr(matmul, "SMALL", 1)
    torch.testing.assert_close(found(), plain, rtol=1e-5, atol=1e-4)
    assert len(plain) == (4 if adapted else 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_torchs_own(dtype: torch.dtype, make: Make, quick: None) -> None:
    x, weight = make(37, 48).to(dtype), make(29, 48).to(dtype)
    assert torch.equal(matmul.linear(x, weight), F.linear(x, weight))


@needs_onednn
def test_what_is_not_a_number_stays_none(make: Make, quick: None) -> None:
    x = make(37, 48)
    x[3, 4] = torch.nan
    bad = matmul.linear(x, make(29, 48)).isnan()
    assert bad[3].all()
    assert bad.sum() == 29


@pytest.mark.parametrize(
    ("width", "maker", "expected"),
    [
        ("AVX512", "AuthenticAMD", True),
        ("AVX512", "GenuineIntel", False),
        ("AVX512", "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel", False),
        ("AVX2", "AuthenticAMD", False),
        ("AVX512", "", False),
        ("DEFAULT", "", False),
    ],
)
def test_onednn_is_asked_where_there_are_wide_vectors_that_mkl_leaves(
    width: str, maker: str, expected: bool, monkeypatch: pytest.MonkeyPatch, afresh: None
) -> None:
    if not torch.backends.mkl.is_available():
        pytest.skip("this torch has no MKL")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    monkeypatch.setattr(matmul, "_maker", lambda: maker)
    assert matmul.prefers_onednn() == expected
    assert matmul.simd_name() == (f"{width} (oneDNN)" if expected else width)


def test_a_maker_is_read_where_linux_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\n"
    monkeypatch.setattr(Path, "read_text", lambda self: said)
    assert matmul._maker() == "AuthenticAMD"


@needs_onednn
def test_within_the_mode_layers_of_any_make_go_the_quick_way(
    make: Make, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    own = matmul.linear
    monkeypatch.setattr(matmul, "linear", lambda *args: (asked.append(args), own(*args))[1])
    layer, x = torch.nn.Linear(48, 29), make(37, 48)
    expected = layer(x)
    assert not asked
    with matmul.FastProducts():
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            F.linear(input=x, weight=layer.weight, bias=layer.bias), expected
        )
        assert len(asked) == 1, "named arguments are torch's own"
        turned = Conv1D(29, 48)
        torch.testing.assert_close(turned(x), x @ turned.weight + turned.bias, rtol=1e-5, atol=1e-5)
    assert len(asked) == 2
    layer(x)
    assert len(asked) == 2


@needs_onednn
@pytest.mark.parametrize("biased", [False, True])
def test_products_have_gradients_of_every_order(biased: bool, make: Make, quick: None) -> None:
    leaves = [make(2, 7, 12), 0.3 * make(9, 12), *([make(9)] if biased else [])]
    along = [make(*leaf.shape) for leaf in leaves]

    def through(layer: Callable[..., Tensor]) -> list[Tensor]:
        held = [leaf.clone().requires_grad_() for leaf in leaves]
        slopes = torch.autograd.grad(layer(*held).tanh().square().sum(), held, create_graph=True)
        curved = sum((s * v).sum() for s, v in zip(slopes, along, strict=True))
        value, forward = torch.func.jvp(
            lambda *given: layer(*given).tanh(), tuple(leaves), tuple(along)
        )
        return [*slopes, *torch.autograd.grad(curved, held), value, forward]

    torch.testing.assert_close(through(matmul.product), through(F.linear), rtol=1e-4, atol=1e-4)
