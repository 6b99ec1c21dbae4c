"""Laws of losses and scores: exact whatever the slices, and the same whoever is beside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import PlannedModel, batch_of, installed, opened, some_ids, stir
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.core.spec import Plan
from lowbit.layers.frozen import FrozenMatrix
from lowbit.layers.operands import DenseOperand
from lowbit.models.skeleton import Kind
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import parse
from lowbit.tasks.base import Batch, Example
from lowbit.tasks.batching import batches
from lowbit.train import losses
from lowbit.train.evaluate import evaluate, ratio
from lowbit.train.losses import IGNORED, HeadLoss, scores, token_losses, training_loss

Folder = Callable[[str], Path]
CPU = torch.device("cpu")
UNIT = 2.0**-24
WORDS, WIDTH = 90, 32
FAMILIES: tuple[tuple[str, Kind], ...] = (
    ("llama", "language"),
    ("llama-untied", "language"),
    ("gpt2", "language"),
    ("bert", "classification"),
    ("gpt2", "classification"),
)
every_family = pytest.mark.parametrize(("name", "kind"), FAMILIES, ids=lambda v: str(v))
language = pytest.mark.parametrize("name", [n for n, kind in FAMILIES if kind == "language"])


def head(text: str) -> FrozenMatrix:
    source = torch.Generator().manual_seed(1)
    return FrozenMatrix(encode(0.3 * torch.randn(WORDS, WIDTH, generator=source), parse(text)))


def hidden(tokens: int) -> Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(2))


def targets(tokens: int) -> Tensor:
    return torch.randint(WORDS, (tokens,), generator=torch.Generator().manual_seed(3))


# --- the head ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["fp32", "int8@row", "nf4@16+dq", "int2@tensor"])
@pytest.mark.parametrize("rows", [64, 65, 100, 10_000])
@pytest.mark.parametrize("tokens", [1, 64, 130, 200])
def test_the_heads_loss_and_gradient_are_those_of_cross_entropy(
    text: str, rows: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOGITS", rows * WORDS)
    x, same = (hidden(tokens).requires_grad_() for _ in range(2))
    found = HeadLoss.apply(x, head(text), targets(tokens))
    logits = F.linear(same, decode(head(text).packed))
    expected = F.cross_entropy(logits, targets(tokens), reduction="none")
    # A loss is the difference of a logarithm of 90 summed terms and a logit: both rounded.
    largest = float(logits.detach().abs().max()) + math.log(WORDS)
    assert float((found - expected).detach().abs().max()) <= 8 * UNIT * largest
    weights = torch.rand(tokens, generator=torch.Generator().manual_seed(4))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert x.grad is not None
    assert same.grad is not None
    # A gradient sums 90 shares times weights; a share is off by the rounding of its logit.
    allowed = (WORDS + 8 * largest) * UNIT * float(decode(head(text).packed).abs().max())
    assert float((x.grad - same.grad).abs().max()) <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_size_of_a_slice_changes_nothing_but_rounding(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for rows in (64, 128, 4096):
        monkeypatch.setattr(losses, "LOGITS", rows * WORDS)
        x = hidden(192).to(dtype).requires_grad_()  # whole slices of 64: the same products
        loss = HeadLoss.apply(x, head("int4@16"), targets(192))
        loss.sum().backward()
        assert x.grad is not None
        found.append((loss.detach(), x.grad))
    for loss, gradient in found[1:]:
        # Another number of rows is another product kernel: sums of 32 terms in fp32.
        assert torch.allclose(loss, found[0][0], rtol=WIDTH * UNIT, atol=WIDTH * UNIT)
        assert gradient.dtype == dtype
        near = torch.finfo(dtype).eps * float(found[0][1].abs().max()) * 2
        assert float((gradient - found[0][1]).abs().max()) <= near


def test_no_more_logits_are_alive_than_a_slice_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "LOGITS", 64 * WORDS)
    sizes: list[int] = []
    product = DenseOperand.product

    def watched(operand: DenseOperand, x: Tensor) -> Tensor:
        sizes.append(len(x))
        return product(operand, x)

    monkeypatch.setattr(DenseOperand, "product", watched)
    HeadLoss.apply(hidden(150), head("int4@16"), targets(150))
    assert sizes == [64, 64, 22]


def test_without_gradients_the_head_keeps_nothing() -> None:
    with torch.no_grad():
        found = HeadLoss.apply(hidden(70), head("int4@16"), targets(70))
    assert found.grad_fn is None
    again = HeadLoss.apply(hidden(70).requires_grad_(), head("int4@16"), targets(70))
    assert torch.equal(found, again)


# --- models ---------------------------------------------------------------------------------------


def made(tiny_model: Folder, name: str, kind: Kind | None = None) -> PlannedModel:
    found = installed(opened(tiny_model(name), kind), Plan("p", "int4@16", rank=2))
    stir(found.model)
    found.model.eval()
    return found


def labelled_batch() -> Batch:
    ids = some_ids(3, 10)
    target = ids.roll(-1, 1)
    target[0, 4:] = IGNORED
    target[1, :3] = IGNORED
    return batch_of(ids, target)


@language
def test_a_models_token_losses_are_the_cross_entropy_of_its_logits(
    tiny_model: Folder, name: str
) -> None:
    model, batch = made(tiny_model, name).model, labelled_batch()
    found = token_losses(model, batch)
    logits = model(input_ids=batch.ids.view(3, -1)).logits.float()
    flat = F.cross_entropy(logits.flatten(0, 1), batch.target, reduction="none")
    expected = flat[batch.target != IGNORED]
    assert batch.labels == (4, 7, 10)
    assert len(found) == 21
    assert float((found - expected).detach().abs().max()) <= 1e-6 * float(expected.detach().max())


@language
def test_ignored_labels_add_neither_loss_nor_gradient_nor_count(
    tiny_model: Folder, name: str
) -> None:
    model, batch = made(tiny_model, name).model, labelled_batch()
    loss, count = training_loss(model, "language", batch)
    assert count == sum(batch.labels) == 21
    embedded: list[Tensor] = []

    def grab(_: object, __: object, out: Tensor) -> Tensor:
        embedded.append(out.detach().requires_grad_())
        return embedded[-1]

    handle = model.get_input_embeddings().register_forward_hook(grab)
    training_loss(model, "language", batch)[0].backward()
    handle.remove()
    assert embedded[0].grad is not None
    gradient = embedded[0].grad.view(3, 10, -1)
    # Nothing after the last label of the first example matters to it.
    assert not gradient[0, 4:].any()
    assert gradient[0, :4].any()
    assert gradient[1].any()
    assert float(loss.detach()) > 0


def examples(kind: Kind, count: int, seed: int = 0) -> list[Example]:
    """Of different lengths."""
    source = np.random.default_rng(seed)
    found = []
    for number in range(count):
        ids = source.integers(3, 80, int(source.integers(2, 20)))
        target = np.array([number % 2]) if kind == "classification" else np.roll(ids, -1)
        found.append(Example(ids, target, number, 1, kind))
    return found


@every_family
def test_an_examples_score_does_not_depend_on_who_is_beside_it(
    tiny_model: Folder, name: str, kind: Kind
) -> None:
    model, part = made(tiny_model, name, kind).model, examples(kind, 9)
    alone, mean = evaluate(model, part, kind, 1, CPU)
    for size in (2, 4, 9):
        found, other = evaluate(model, part, kind, size, CPU)
        assert [count for _, count in found] == [count for _, count in alone]
        sums, expected = (np.array([s for s, _ in rows]) for rows in (found, alone))
        # Other lengths beside it pad its attention with exact zeros; sums of up to 32 terms are
        # ordered anew, in
        # about ten products one after the other.
        np.testing.assert_allclose(sums, expected, rtol=10 * 32 * UNIT)
        assert other == pytest.approx(mean, rel=10 * 32 * UNIT)


@every_family
def test_order_changes_no_score(tiny_model: Folder, name: str, kind: Kind) -> None:
    model, part = made(tiny_model, name, kind).model, examples(kind, 6)
    found, _ = evaluate(model, part, kind, 3, CPU)
    turned, _ = evaluate(model, part[::-1], kind, 3, CPU)
    expected = [s for s, _ in found]
    np.testing.assert_allclose([s for s, _ in turned[::-1]], expected, rtol=320 * UNIT)


@every_family
def test_the_ratio_of_summed_scores_is_the_metric(
    tiny_model: Folder, name: str, kind: Kind
) -> None:
    model, part = made(tiny_model, name, kind).model, examples(kind, 7)
    found, mean = evaluate(model, part, kind, 3, CPU)
    if kind == "language":
        assert [count for _, count in found] == [len(e.target) for e in part]
        assert ratio(found) == pytest.approx(mean, rel=1e-12)
    else:
        assert {s for s, _ in found} <= {0.0, 1.0}
        assert [count for _, count in found] == [1] * len(part)
        assert ratio(found) == sum(s for s, _ in found) / len(part)
    summed = counted = 0.0
    for batch in batches(part, 3, range(len(part))):
        loss, count = training_loss(model, kind, batch)
        summed, counted = summed + float(loss.detach()), counted + count
        assert count == sum(batch.labels)
        assert len(scores(model, kind, batch)[0]) == len(batch.index)
    assert summed / counted == pytest.approx(mean, rel=320 * UNIT)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 1000)), min_size=1, max_size=9))
def test_a_metric_is_the_same_in_whatever_order(rows: list[tuple[float, int]]) -> None:
    assert ratio(rows) == pytest.approx(ratio(rows[::-1]))
    assert min(s / c for s, c in rows) <= ratio(rows) * (1 + 1e-12)
    assert ratio(rows) <= max(s / c for s, c in rows) * (1 + 1e-12)


@every_family
def test_evaluation_leaves_the_mode_and_the_random_state_as_they_were(
    tiny_model: Folder, name: str, kind: Kind
) -> None:
    model, part = made(tiny_model, name, kind).model, examples(kind, 3)
    for training in (True, False):
        model.train(training)
        before = torch.get_rng_state()
        evaluate(model, part, kind, 2, CPU)
        assert model.training == training
        assert torch.equal(torch.get_rng_state(), before)
        assert all(p.grad is None for p in model.parameters())


# --- rows that are added so that few shapes occur -------------------------------------------------


def _tiny_bf16(folder: Path) -> nn.Module:
    """A packed model that computes in bf16."""
    return installed(opened(folder), Plan("p", "int8@row"), compute=torch.bfloat16).model.eval()


def _batch(lengths: Sequence[int]) -> Batch:
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (sum(lengths),), generator=source)
    return Batch(ids, ids, tuple(lengths), tuple(lengths), tuple(range(len(lengths))))


def test_added_rows_change_no_result_and_are_not_returned(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = _tiny_bf16(tiny_model("llama")), _batch((5, 9, 7))
    filled, _ = losses.hidden_of(model, batch)
    monkeypatch.setattr(losses, "padded_rows", lambda rows: rows)
    plain, segments = losses.hidden_of(model, batch)
    assert segments.lengths == (5, 9, 7)
    assert filled.shape == plain.shape
    torch.testing.assert_close(filled.float(), plain.float(), rtol=0.02, atol=0.02)


def test_batches_of_many_lengths_give_few_shapes(tiny_model: Folder) -> None:
    model, rows = _tiny_bf16(tiny_model("llama")), set[int]()
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    layer.register_forward_pre_hook(lambda _, given: rows.add(given[0].shape[-2]))
    with torch.no_grad():
        for longest in range(1, 120):
            losses.hidden_of(model, _batch((longest, 3)))
            losses.hidden_of(model, _batch((longest,)))
        assert len(rows) <= 10
        losses.hidden_of(model, _batch((13, 13)))
    assert 26 in rows, "examples of equal length attend together"
