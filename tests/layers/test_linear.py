"""Laws of the layers: one format has one meaning, whatever the mode, the residency or the cast."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import Made, installed, opened, some_ids, stir
from helpers.models import batch_of as flat_batch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, Rule
from lowbit.layers import frozen, linear
from lowbit.layers.adapters import Adapter, SvdAdapter
from lowbit.layers.frozen import Frozen, FrozenEmbedding
from lowbit.layers.install import adapters
from lowbit.layers.linear import Adapted
from lowbit.models.loading import Kind
from lowbit.quant.codec import Packed, Room, decode, encode
from lowbit.quant.formats import CASTS, FORMATS, parse
from lowbit.tasks.base import Batch, Example
from lowbit.tasks.batching import batches
from lowbit.train.evaluate import evaluate
from lowbit.train.losses import training_loss

Folder = Callable[[str], Path]
# Every format there is, in groups whose last is short, alone and with everything it may have.
STRINGS = [
    *CASTS,
    *(f"{name}@16" for name in FORMATS),
    *(f"{name}@tensor" for name in ("int2", "nf4", "ternary", "int5")),
    *(f"{name}@row" for name in ("int8", "int3", "ternary")),
    *("nf4@16+dq", "int3@16+dq", "ternary@16+dq", "int4@row+dq"),
    *("int4@16:zp", "int4@16:min", "int2@16:zp+dq", "int8@tensor:min", "int5@16:full:mse"),
]
every_format = pytest.mark.parametrize("text", STRINGS)
ROWS, COLUMNS = 24, 44
TYPES = (torch.float32, torch.bfloat16)
MIXED = Plan(
    "mixed", "nf4@16+dq", embedding="int4@row", rank=3, rule=(Rule(role="ffn", format="int3@16"),)
)
FAMILIES: tuple[tuple[str, Kind], ...] = (
    ("llama", "language"),
    ("gpt2", "language"),
    ("bert", "classification"),
)
every_family = pytest.mark.parametrize(("name", "kind"), FAMILIES, ids=lambda v: str(v))


def packed(text: str) -> Packed:
    source = torch.Generator().manual_seed(1)
    return encode(0.1 * torch.randn(ROWS, COLUMNS, generator=source), parse(text))


def given(dtype: torch.dtype, *shape: int) -> Tensor:
    source = torch.Generator().manual_seed(2)
    return torch.randn(*shape, COLUMNS, generator=source).to(dtype).requires_grad_()


def batch_of(kind: Kind) -> Batch:
    ids = some_ids()
    target = torch.tensor([0, 1, 1]) if kind == "classification" else ids.roll(-1, 1)
    return flat_batch(ids, target)


def gradients(made: Made, kind: Kind) -> dict[str, Tensor]:
    """Of one training step, dropout drawn from the same seed each time."""
    torch.manual_seed(11)
    made.model.train()
    made.model.zero_grad(set_to_none=True)
    loss, labels = training_loss(made.model, kind, batch_of(kind))
    (loss / labels).backward()
    found = {n: p.grad for n, p in made.model.named_parameters() if p.grad is not None}
    assert found
    return {n: gradient.clone() for n, gradient in found.items()}


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


# --- the frozen product -------------------------------------------------------------------------


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
    found = Frozen(store)(x, bias)
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
        frozen = Frozen(store, residency)  # type: ignore[arg-type]
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
    found = FrozenEmbedding(Frozen(store, residency), dtype)(ids)
    assert found.shape == (2, 3, COLUMNS)
    assert torch.equal(found, F.embedding(ids, decode(store, dtype)))


@every_format
@pytest.mark.parametrize("cast", ["bfloat16", "half", "double"])
def test_casting_a_model_changes_nothing_that_is_stored(text: str, cast: str) -> None:
    layer = Adapted(Frozen(packed(text)), torch.randn(ROWS), None)
    before = {n: t.clone() for n, t in layer.frozen.packed.tensors().items()}
    expected = layer.frozen.weight(torch.float32)
    getattr(layer, cast)()
    after = layer.frozen.packed.tensors()
    assert {n: t.dtype for n, t in after.items()} == {n: t.dtype for n, t in before.items()}
    assert same_bits(after, before)
    assert torch.equal(layer.frozen.weight(torch.float32), expected)


@every_format
def test_codes_are_parameters_that_never_train_and_travel_in_the_state(text: str) -> None:
    frozen, other = Frozen(packed(text)), Frozen(encode(torch.ones(ROWS, COLUMNS), parse(text)))
    assert [n for n, _ in frozen.named_parameters()] == ["codes"]
    assert frozen.codes.dtype == torch.uint8
    assert not frozen.codes.requires_grad
    assert set(frozen.state_dict()) == set(frozen.packed.tensors())
    other.load_state_dict(frozen.state_dict())
    assert torch.equal(other.weight(torch.float32), frozen.weight(torch.float32))


# --- nothing decoded is kept --------------------------------------------------------------------


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many of the matrices that layers have decoded are still in memory.

    The one place that every matrix in turn is decoded into is not among them; its size has a law
    of its own.
    """
    made: list[StorageWeakRef] = []

    def watched(
        store: Packed, dtype: torch.dtype, rows: Tensor | None = None, room: Room | None = None
    ) -> Tensor:
        found = decode(store, dtype, rows, room)
        places = [] if room is None else [held.data_ptr() for held in room._held.values()]
        # A plain type is a view of what is stored.
        if found.data_ptr() not in (store.codes.data_ptr(), *places):
            made.append(StorageWeakRef(found.untyped_storage()))
        return found

    monkeypatch.setattr(linear, "decode", watched)
    return lambda: sum(not reference.expired() for reference in made)


@every_format
def test_packed_residency_keeps_no_decoded_matrix(text: str, living: Callable[[], int]) -> None:
    """After the forward pass, when autograd holds what it holds, and after the backward pass."""
    layer = Adapted(Frozen(packed(text)), None, Adapter(2, (ROWS, COLUMNS), 2.0, 0.0, seed()))
    y = layer(given(torch.bfloat16, 3))
    assert living() == 0
    y.sum().backward()
    assert living() == 0


def test_a_decoded_matrix_that_is_kept_is_noticed(living: Callable[[], int]) -> None:
    frozen = Frozen(packed("nf4@16"))
    kept = [frozen.weight(torch.float32), frozen.rows(torch.tensor([1]), torch.bfloat16)]
    assert living() == 2
    kept.clear()
    assert living() == 0


def test_decoded_residency_keeps_one_copy_a_type(living: Callable[[], int]) -> None:
    frozen = Frozen(packed("nf4@16"), "decoded")
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
    room = Room()
    monkeypatch.setattr(linear, "_ROOM", room)
    made = installed(opened(tiny_model("llama")), Plan("p", "nf4@16", rank=2, embedding="nf4@16"))
    loss, _ = training_loss(made.model, "language", batch_of("language"))
    loss.backward()
    held = sum(t.numel() * t.element_size() for t in room._held.values())
    assert held == max(4 * site.shape[0] * site.shape[1] for site in made.sites)


def test_what_a_packed_product_saves_for_its_backward_pass_is_nothing() -> None:
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = Frozen(packed("int4@16"))(given(torch.float32, 3))
    assert saved == []
    y.sum().backward()


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# --- traps 1 and 7: modes ------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize(
    ("residency", "compute"), [("packed", torch.bfloat16), ("decoded", torch.float32)], ids=str
)
def test_an_evaluation_pass_changes_no_bit_of_later_gradients(
    tiny_model: Folder, name: str, kind: Kind, residency: frozen.Residency, compute: torch.dtype
) -> None:
    start = opened(tiny_model(name), kind)
    made = installed(start, MIXED, compute=compute, residency=residency)
    stir(made.model)
    before, state = gradients(made, kind), copied(made.model)
    part = tuple(examples(kind))
    evaluate(made.model, part, kind, 2, torch.device("cpu"))
    assert made.model.training
    assert same_bits(copied(made.model), state)
    assert same_bits(gradients(made, kind), before)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def examples(kind: Kind) -> Iterator[Example]:
    for row in some_ids(3, 9).numpy():
        target = np.array([1]) if kind == "classification" else np.roll(row, -1)
        yield Example(row, target, 0, 1, kind)


@every_family
@pytest.mark.parametrize("schedule", ["fixed", "adalora"])
def test_training_and_evaluation_compute_the_same_where_nothing_drops_out(
    tiny_model: Folder, name: str, kind: Kind, schedule: str
) -> None:
    plan = Plan("p", "int3@16", rank=3, schedule=RankSchedule(schedule, target=1))  # type: ignore
    made = installed(opened(tiny_model(name), kind), plan)
    stir(made.model)
    for module in made.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for module in made.model.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    (part,) = batches(list(examples(kind)), 3, [0, 1, 2])
    losses = []
    for mode in (True, False, True):
        made.model.train(mode)
        with torch.set_grad_enabled(mode):
            losses.append(training_loss(made.model, kind, part)[0].detach())
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@every_family
def test_evaluation_mode_merges_nothing(tiny_model: Folder, name: str, kind: Kind) -> None:
    made = installed(opened(tiny_model(name), kind), MIXED)
    stir(made.model)
    kinds = [type(module) for module in made.model.modules()]
    held, state = set(adapters(made.model)), copied(made.model)
    made.model.eval()
    assert [type(module) for module in made.model.modules()] == kinds
    assert set(adapters(made.model)) == held
    assert same_bits(copied(made.model), state)
    made.model.train()
    assert same_bits(copied(made.model), state)


# --- adapters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Adapter, SvdAdapter])
@pytest.mark.parametrize("rank", [1, 3, ROWS])
def test_an_adapters_delta_is_the_product_of_its_factors(
    kind: type[Adapter] | type[SvdAdapter], rank: int
) -> None:
    adapter = kind(rank, (ROWS, COLUMNS), 5.0, 0.0, seed())
    stir(adapter)
    if isinstance(adapter, SvdAdapter):
        adapter.alive[::2] = False
    a, b = adapter.factors()
    expected_rank = rank // 2 if isinstance(adapter, SvdAdapter) else rank
    assert a.shape == (expected_rank, COLUMNS)
    assert b.shape == (ROWS, expected_rank)
    x = given(torch.float32, 6).detach()
    expected = x.double() @ (b.double() @ a.double()).T
    # Two sums, of 44 and of at most 24 terms.
    away = (adapter(x).double() - expected).abs().max()
    allowed = (COLUMNS + ROWS) * 2.0**-24 * float((x.abs() @ a.abs().T @ b.abs().T).max())
    assert float(away.detach()) <= allowed


@pytest.mark.parametrize("kind", [Adapter, SvdAdapter])
def test_a_new_adapter_adds_nothing_and_can_learn(
    kind: type[Adapter] | type[SvdAdapter],
) -> None:
    adapter = kind(3, (ROWS, COLUMNS), 5.0, 0.0, seed())
    out = adapter(given(torch.float32, 4))
    assert not out.any()
    (out * torch.randn(out.shape)).sum().backward()
    moved = [n for n, p in adapter.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved == (["B"] if kind is Adapter else ["E"])


def test_a_cut_direction_gets_no_gradient_and_adds_nothing() -> None:
    adapter = SvdAdapter(4, (ROWS, COLUMNS), 4.0, 0.0, seed())
    stir(adapter)
    x = given(torch.float32, 4)
    adapter.alive[1] = False
    adapter(x).square().sum().backward()
    for gradient in (adapter.E.grad, adapter.A.grad, adapter.B.grad):
        assert gradient is not None
    assert adapter.E.grad[1] == 0  # type: ignore[index]
    assert not adapter.A.grad[1].any()  # type: ignore[index]
    assert not adapter.B.grad[:, 1].any()  # type: ignore[index]
    assert bool((adapter.E.grad[[0, 2, 3]] != 0).all())  # type: ignore[index]


@pytest.mark.parametrize("kind", [Adapter, SvdAdapter])
def test_dropout_belongs_to_training_alone(kind: type[Adapter] | type[SvdAdapter]) -> None:
    adapter = kind(3, (ROWS, COLUMNS), 5.0, 0.5, seed())
    stir(adapter)
    x = given(torch.float32, 4).detach()
    assert not torch.equal(adapter.train()(x), adapter.train()(x))
    quiet = kind(3, (ROWS, COLUMNS), 5.0, 0.0, seed())
    quiet.load_state_dict(adapter.state_dict())
    assert torch.equal(adapter.eval()(x), quiet.train()(x))
