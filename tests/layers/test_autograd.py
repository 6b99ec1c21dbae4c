"""Every fast path against the plain one: same losses, gradients and scores per example.

The plain paths are transformers' own call with padding and a mask, autograd's own derivative of
the formula, and torch's own dropout. Tolerances are rounding: sums of at most some hundred fp32
terms in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import CASES, PlannedModel, installed, opened, stir
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan
from lowbit.layers.adapters import Adapter, SvdAdapter
from lowbit.layers.frozen import FrozenMatrix
from lowbit.layers.install import adapters
from lowbit.layers.linear import AdaptedLinear
from lowbit.models import dropout, packed_attention
from lowbit.models.packed_attention import Segments
from lowbit.quant.codec import encode
from lowbit.quant.formats import parse
from lowbit.tasks.base import Example
from lowbit.tasks.batching import by_length, collate
from lowbit.train.evaluate import evaluate
from lowbit.train.losses import Kind, scores, training_loss

Folder = Callable[[str], Path]
CPU = torch.device("cpu")
ROUNDING = 2e-5
every_family = pytest.mark.parametrize(("name", "kind"), CASES)


# --- no padding -----------------------------------------------------------------------------------


def examples(kind: Kind, lengths: tuple[int, ...]) -> list[Example]:
    source = np.random.default_rng(4)
    found = []
    for number, length in enumerate(lengths):
        ids = source.integers(3, 80, length)
        target = np.array([number % 2]) if kind == "classification" else np.roll(ids, -1)
        found.append(Example(ids, target, number, 1, kind))
    return found


def padded_losses(model: nn.Module, kind: Kind, part: list[Example]) -> Tensor:
    """(examples,) summed loss of each, by transformers' own padded and masked call."""
    longest = max(len(e.ids) for e in part)
    ids = torch.zeros(len(part), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, example in enumerate(part):
        ids[line, : len(example.ids)] = torch.from_numpy(example.ids)
        mask[line, : len(example.ids)] = 1
    model.set_attn_implementation("eager")  # type: ignore[operator]
    if kind == "classification":
        # Its own rule for "the last token" looks for the padding token, which our ids avoid.
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        target = torch.tensor([int(e.target[0]) for e in part])
        return F.cross_entropy(logits, target, reduction="none")
    logits = model(input_ids=ids, attention_mask=mask).logits.float()
    sums = [
        F.cross_entropy(row[: len(e.ids)], torch.from_numpy(e.target), reduction="sum")
        for row, e in zip(logits, part, strict=True)
    ]
    return torch.stack(sums)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: g for n, g in zip(named, found, strict=True) if g is not None}


def made(tiny_model: Folder, name: str, kind: Kind, plan: Plan | None = None) -> PlannedModel:
    found = installed(opened(tiny_model(name), kind), plan or Plan("p", "int4@16", rank=2))
    stir(found.model)
    found.model.eval()
    return found


@pytest.mark.parametrize("lengths", [(7, 7, 7), (3, 12, 1, 9)], ids=["alike", "unlike"])
@every_family
def test_examples_one_after_another_have_the_losses_and_gradients_of_padded_ones(
    tiny_model: Folder, name: str, kind: Kind, lengths: tuple[int, ...]
) -> None:
    model, part = made(tiny_model, name, kind).model, examples(kind, lengths)
    loss, _ = training_loss(model, kind, collate(part, range(len(part))))
    ours = gradients(model, loss)
    plain = padded_losses(model, kind, part).sum()
    theirs = gradients(model, plain)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=ROUNDING)
    assert ours.keys() == theirs.keys()
    for site, gradient in theirs.items():
        worst = float((ours[site] - gradient).abs().max())
        assert worst <= 10 * ROUNDING * float(gradient.abs().max()) + 1e-7, site


@pytest.mark.parametrize("lengths", [(5, 5), (2, 11, 6)], ids=["alike", "unlike"])
def test_examples_one_after_another_score_as_padded_ones_do(
    tiny_model: Folder, lengths: tuple[int, ...]
) -> None:
    model, part = made(tiny_model, "llama", "language").model, examples("language", lengths)
    sums, counts, _ = scores(model, "language", collate(part, range(len(part))))
    with torch.no_grad():
        np.testing.assert_allclose(sums, padded_losses(model, "language", part), rtol=ROUNDING)
    assert counts == list(lengths)


def test_a_sliding_window_is_kept_where_examples_are_longer(tiny_model: Folder) -> None:
    model = made(tiny_model, "mistral", "language").model
    part = examples("language", (12, 4, 9))
    whole, _ = evaluate(model, part, "language", 3, CPU)
    for module in model.modules():
        if hasattr(module, "sliding_window"):
            module.sliding_window = 5
    model.config.sliding_window = 5  # type: ignore[union-attr]
    found, _ = evaluate(model, part, "language", 3, CPU)
    with torch.no_grad():
        expected = padded_losses(model, "language", part)
    np.testing.assert_allclose([s for s, _ in found], expected, rtol=ROUNDING)
    assert found[0] != whole[0]
    assert found[1][0] == pytest.approx(whole[1][0], rel=ROUNDING)


def test_a_step_has_the_same_gradient_in_whatever_order_its_examples_lie(
    tiny_model: Folder,
) -> None:
    model = made(tiny_model, "llama", "language").model
    part = examples("language", (9, 2, 5, 12))
    order = by_length(part, range(4))
    assert [len(part[i].ids) for i in order] == [2, 5, 9, 12]
    ours, theirs = (
        gradients(model, training_loss(model, "language", collate(part, index))[0])
        for index in (range(4), order)
    )
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_model_called_as_transformers_means_it_still_answers(tiny_model: Folder) -> None:
    model = made(tiny_model, "llama", "language").model
    ids = torch.randint(3, 80, (2, 6))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        packed_attention.use(model)
        torch.testing.assert_close(model(input_ids=ids).logits, before)


# --- one product ----------------------------------------------------------------------------------


def layer(kind: type[Adapter] | type[SvdAdapter], rate: float, bias: bool) -> AdaptedLinear:
    source = torch.Generator().manual_seed(3)
    frozen = FrozenMatrix(encode(torch.randn(20, 48, generator=source), parse("nf4@16")))
    adapter = kind(4, (20, 48), 8.0, rate, source)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(0, 0.3, generator=source)
    if isinstance(adapter, SvdAdapter):
        adapter.alive[1] = False
    return AdaptedLinear(frozen, torch.randn(20, generator=source) if bias else None, adapter)


@pytest.mark.parametrize("wants", [True, False], ids=["inner", "first layer"])
@pytest.mark.parametrize("rate", [0.0, 0.25])
@pytest.mark.parametrize("kind", [Adapter, SvdAdapter])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_joined_product_is_the_formula_with_autograds_own_gradients(
    kind: type[Adapter], rate: float, wants: bool, dtype: torch.dtype
) -> None:
    made = layer(kind, rate, bias=True)
    adapter, bias = made.adapter, made.bias
    assert adapter is not None
    assert bias is not None
    x = torch.randn(2, 5, 48, dtype=dtype).requires_grad_(wants)
    inputs = [*adapter.parameters(), *([x] if wants else [])]
    torch.manual_seed(9)
    joined = made(x)
    torch.manual_seed(9)
    seen = dropout.dropout(x, rate) if rate else x
    thin = adapter.scaled_factors(dtype)
    weight = made.frozen.weight(torch.float32).to(dtype)
    plain = x @ weight.t() + bias.to(dtype) + thin.scale * (seen @ thin.A.t()) @ thin.B.t()
    torch.testing.assert_close(joined, plain)
    slope = torch.randn(joined.shape, dtype=dtype)
    ours = torch.autograd.grad(joined, inputs, slope)
    theirs = torch.autograd.grad(plain, inputs, slope)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_joined_product_keeps_its_input_once_and_no_decoded_matrix() -> None:
    made, kept = layer(Adapter, 0.0, bias=False), dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(1, 40, 48, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        made(x)
    thin = 40 * 4 * 4
    assert sum(kept.values()) == x.numel() * 4 + thin + sum(p.numel() * 4 for p in _ab(made))


def _ab(made: AdaptedLinear) -> list[Tensor]:
    assert made.adapter is not None
    return [made.adapter.A, made.adapter.B]


@pytest.mark.parametrize("schedule", ["fixed", "adalora"])
def test_an_adapters_delta_alone_is_what_the_layer_adds(tiny_model: Folder, schedule: str) -> None:
    plan = Plan("p", "int4@16", rank=2, schedule=RankSchedule(schedule, 1))  # type: ignore[arg-type]
    model = made(tiny_model, "llama", "language", plan).model
    name, adapter = next(iter(adapters(model).items()))
    module = model.get_submodule(name)
    assert isinstance(module, AdaptedLinear)
    x = torch.randn(1, 6, module.frozen.shape[1])
    torch.testing.assert_close(module(x), module.frozen(x, module.bias) + adapter(x))


# --- dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_keeps_the_mean_and_has_its_own_mask_as_gradient(
    rate: float,
) -> None:
    x = torch.ones(200, 501, requires_grad=True)
    y = dropout.dropout(x, rate)
    (slope,) = torch.autograd.grad(y.sum(), x)
    zero = float((y == 0).float().mean())
    # Five standard errors of a fraction over a hundred thousand draws.
    assert abs(zero - rate) < 5 * (rate * (1 - rate) / x.numel()) ** 0.5 + 2**-16
    assert torch.equal(slope, y.detach())
    assert len(y.detach().unique()) == 2
    assert float(y.detach().max()) == pytest.approx(1 / (1 - rate), rel=1e-3)


def test_dropout_draws_anew_each_time_from_torchs_own_stream() -> None:
    x = torch.ones(1000)
    torch.manual_seed(1)
    first, second = dropout.dropout(x, 0.5), dropout.dropout(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(dropout.dropout(x, 0.5), first)
    assert not torch.equal(first, second)
    neighbours = (first.bool()[1:] == first.bool()[:-1]).float().mean()
    assert abs(float(neighbours) - 0.5) < 0.08


def test_dropout_in_evaluation_is_nothing_and_every_one_of_a_model_is_replaced(
    tiny_model: Folder,
) -> None:
    model = made(tiny_model, "bert", "classification").model
    packed_attention.use(model)
    found = [m for m in model.modules() if isinstance(m, dropout.Dropout)]
    assert found
    assert not any(type(m) is nn.Dropout for m in model.modules())
    assert not any(m.training for m in found)
    x = torch.randn(3, 4)
    assert found[0](x) is x


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [(4, 4), (5, 2, 3)])
def test_attention_that_drops_weights_is_unchanged_where_it_drops_none(
    causal: bool, lengths: tuple[int, ...]
) -> None:
    class Module(nn.Module):
        is_causal = causal

    total = sum(lengths)
    query = torch.randn(1, 4, total, 8)
    key, value = torch.randn(1, 2, total, 8), torch.randn(1, 2, total, 8)
    segments = Segments(lengths, CPU)
    # A rate below what sixteen bits can tell from nothing takes the dropping path and drops none.
    ours, _ = packed_attention.attend(Module(), query, key, value, None, 1e-9, None, segments)
    plain, _ = packed_attention.attend(Module(), query, key, value, None, 0.0, None, segments)
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("apart", [("cpu",), ()], ids=["one by one", "padded"])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (False, None), (True, 2)])
def test_examples_of_many_lengths_attend_as_each_would_alone(
    causal: bool, window: int | None, apart: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module(nn.Module):
        is_causal = causal

    monkeypatch.setattr(packed_attention, "SEQUENTIAL_DEVICES", apart)
    lengths = (5, 2, 3)
    inputs = [torch.randn(1, heads, 10, 8, requires_grad=True) for heads in (4, 2, 2)]
    slope = torch.randn(1, 10, 4, 8)

    def attended(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
        segments = Segments(lengths, CPU)
        return packed_attention.attend(
            Module(), q, k, v, None, 0.0, None, segments, sliding_window=window
        )[0]

    together = attended(*inputs, lengths=lengths)
    parts = [t.split(lengths, 2) for t in inputs]
    alone = torch.cat(
        [attended(*own, lengths=(own[0].shape[2],)) for own in zip(*parts, strict=True)], 1
    )
    torch.testing.assert_close(together, alone)
    slopes = [torch.autograd.grad(y, inputs, slope) for y in (together, alone)]
    torch.testing.assert_close(*slopes)
