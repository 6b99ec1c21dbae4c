"""A frozen layer multiplies with its decoded matrix and keeps only what its residency allows."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from helpers.layers import (
    COLUMNS,
    MIXED,
    ROWS,
    Folder,
    batch_of,
    every_family,
    every_format,
    given,
    packed,
    seed,
)
from helpers.models import installed, opened
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from lowbit.core.spec import Plan
from lowbit.layers import frozen
from lowbit.layers.adapters import Adapter
from lowbit.layers.frozen import FrozenEmbedding, FrozenMatrix
from lowbit.layers.linear import AdaptedLinear
from lowbit.models.skeleton import Kind
from lowbit.quant.codec import Packed, Scratch, decode, encode
from lowbit.quant.formats import parse
from lowbit.train.losses import training_loss

TYPES = (torch.float32, torch.bfloat16)


@every_format
@pytest.mark.parametrize(
    ("dtype", "biased"),
    [(torch.float32, True), (torch.bfloat16, True), (torch.float32, False)],
    ids=str,
)
def test_the_frozen_product_is_the_product_with_the_decoded_matrix(
    text: str, dtype: torch.dtype, biased: bool
) -> None:
    store = packed(text)
    bias = torch.randn(ROWS).to(dtype) if biased else None
    x, same = given(dtype, 3, 5), given(dtype, 3, 5)
    found = FrozenMatrix(store)(x, bias)
    expected = F.linear(same, decode(store, dtype), bias)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    slope = torch.randn(found.shape).to(dtype)
    found.backward(slope)
    expected.backward(slope)
    assert x.grad is not None
    assert same.grad is not None
    # Autograd flattens (3, 5) to 15 rows for its product and we do not: the same sums of 24.
    assert torch.allclose(
        x.grad, same.grad, rtol=0, atol=ROWS * torch.finfo(dtype).eps * float(same.grad.abs().max())
    )
    assert torch.equal(x.grad, slope @ decode(store, dtype))


@every_format
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_decoded_residency_gives_the_bits_of_packed_residency(
    text: str, dtype: torch.dtype
) -> None:
    store, index = packed(text), torch.tensor([3, 0, 3, 23])
    results = []
    for residency in ("packed", "decoded"):
        frozen = FrozenMatrix(store, residency)  # type: ignore[arg-type]
        x = given(dtype, 7)
        for _ in range(2):
            y = frozen(x)
        y.square().sum().backward()
        assert x.grad is not None
        results.append((y.detach(), x.grad, frozen.rows(index, dtype)))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@every_format
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("residency", ["packed", "decoded"])
def test_an_embedding_looks_up_the_rows_of_the_decoded_matrix(
    text: str, dtype: torch.dtype, residency: frozen.Residency
) -> None:
    store = packed(text)
    ids = torch.tensor([[0, 5, 23], [5, 5, 1]])
    found = FrozenEmbedding(FrozenMatrix(store, residency), dtype)(ids)
    assert found.shape == (2, 3, COLUMNS)
    assert torch.equal(found, F.embedding(ids, decode(store, dtype)))


@every_format
def test_codes_are_parameters_that_never_train_and_travel_in_the_state(text: str) -> None:
    frozen, other = (
        FrozenMatrix(packed(text)),
        FrozenMatrix(encode(torch.ones(ROWS, COLUMNS), parse(text))),
    )
    assert [n for n, _ in frozen.named_parameters()] == ["codes"]
    assert frozen.codes.dtype == torch.uint8
    assert not frozen.codes.requires_grad
    assert set(frozen.state_dict()) == set(frozen.packed.tensors())
    other.load_state_dict(frozen.state_dict())
    assert torch.equal(other.weight(torch.float32), frozen.weight(torch.float32))


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many of the matrices that layers have decoded are still in memory.

    The one place that every matrix in turn is decoded into is not among them; its size has a law
    of its own.
    """
    made: list[StorageWeakRef] = []

    def watched(
        store: Packed,
        dtype: torch.dtype,
        rows: Tensor | None = None,
        scratch: Scratch | None = None,
    ) -> Tensor:
        found = decode(store, dtype, rows, scratch)
        places = [] if scratch is None else [held.data_ptr() for held in scratch._buffers.values()]
        # A plain type is a view of what is stored.
        if found.data_ptr() not in (store.codes.data_ptr(), *places):
            made.append(StorageWeakRef(found.untyped_storage()))
        return found

    monkeypatch.setattr(frozen, "decode", watched)
    return lambda: sum(not reference.expired() for reference in made)


@every_format
def test_packed_residency_keeps_no_decoded_matrix(text: str, living: Callable[[], int]) -> None:
    """After the forward pass, when autograd holds what it holds, and after the backward pass."""
    layer = AdaptedLinear(
        FrozenMatrix(packed(text)), None, Adapter(2, (ROWS, COLUMNS), 2.0, 0.0, seed())
    )
    y = layer(given(torch.bfloat16, 3))
    assert living() == 0
    y.sum().backward()
    assert living() == 0


def test_a_decoded_matrix_that_is_kept_is_noticed(living: Callable[[], int]) -> None:
    frozen = FrozenMatrix(packed("nf4@16"))
    kept = [frozen.weight(torch.float32), frozen.rows(torch.tensor([1]), torch.bfloat16)]
    assert living() == 2
    kept.clear()
    assert living() == 0


def test_decoded_residency_keeps_one_copy_a_type(living: Callable[[], int]) -> None:
    frozen = FrozenMatrix(packed("nf4@16"), "decoded")
    for _ in range(3):
        frozen(given(torch.bfloat16, 3)).sum().backward()
        frozen.rows(torch.tensor([1]), torch.bfloat16)
    assert living() == 1
    frozen(given(torch.float32, 3))
    assert living() == 2


@every_family
def test_a_model_in_packed_residency_keeps_no_decoded_matrix(
    tiny_model: Folder, name: str, kind: Kind, living: Callable[[], int]
) -> None:
    made = installed(opened(tiny_model(name), kind), MIXED, compute=torch.bfloat16)
    loss, _ = training_loss(made.model, kind, batch_of(kind))
    # Embedded rows are activations: they live until the backward pass is done.
    looked_up = sum(isinstance(m, FrozenEmbedding) for m in made.model.modules())
    assert living() <= looked_up
    loss.backward()
    del loss
    gc.collect()
    assert living() == 0


def test_all_matrices_are_decoded_into_one_place_as_large_as_the_largest(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = Scratch()
    monkeypatch.setattr(frozen, "_SCRATCH", scratch)
    made = installed(opened(tiny_model("llama")), Plan("p", "nf4@16", rank=2, embedding="nf4@16"))
    loss, _ = training_loss(made.model, "language", batch_of("language"))
    loss.backward()
    held = sum(t.numel() * t.element_size() for t in scratch._buffers.values())
    assert held == max(4 * site.shape[0] * site.shape[1] for site in made.sites)


def test_what_a_packed_product_saves_for_its_backward_pass_is_nothing() -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = FrozenMatrix(packed("int4@16"))(given(torch.float32, 3))
    assert saved == []
    y.sum().backward()
