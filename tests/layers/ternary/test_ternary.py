"""Training towards three values: what multiplies is what is stored, and nothing is smuggled in."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.core.errors import BadValueError, RunError
from lowbit.core.schedules import Shape, Warmup
from lowbit.core.spec import Group
from lowbit.layers.frozen import Frozen
from lowbit.layers.ternary.grid import Grid, Rule, blocks, fitted, ternarised, unblocked
from lowbit.layers.ternary.linear import Recovery, TernaryLinear, bits8, layers, set_strength
from lowbit.layers.ternary.packing import effective_bits, store
from lowbit.quant.codec import decode, encode, scales_of
from lowbit.quant.formats import parse
from lowbit.train.teacher_outputs import divergence, feature_error, keep, off

GROUPS: tuple[Group, ...] = (32, 64, 128, 256, "row", "tensor")
RULES: tuple[Rule, ...] = ("absmean", "absmax", "lsq", "learned")
SHAPES: tuple[Shape, ...] = ("linear", "cosine", "exponential", "sigmoid", "two-phase", "none")


def matrix(rows: int = 6, columns: int = 200, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def layer(grid: Grid, recovery: Recovery | None = None, strength: float = 1.0) -> TernaryLinear:
    made = TernaryLinear(matrix(), None, grid, recovery)
    made.strength = strength
    return made


# --- the grid -------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("rule", RULES)
def test_weights_are_three_values_times_their_groups_scale(group: Group, rule: Rule) -> None:
    grid, weight = Grid(group, rule), matrix()
    codes, scale = ternarised(weight, grid)
    assert set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert torch.equal(scale, scale.to(torch.float16).float()), "scales are as 16 bits keep them"
    assert unblocked(codes, (6, 200), grid).shape == weight.shape
    assert torch.equal(unblocked(blocks(weight, grid), (6, 200), grid), weight)


def test_the_formula_is_the_published_one() -> None:
    weight = matrix(4, 128)
    codes, scale = ternarised(weight, Grid(128, "absmean", 0.5))
    mean = weight.abs().mean(1, keepdim=True)
    expected = (weight / mean).clamp(-1, 1).round()
    near = ((weight / mean).abs() - 0.5).abs() < 1e-4
    assert torch.equal(codes.view(4, 128)[~near], expected[~near])
    assert torch.allclose(scale.view(4, 1), mean, rtol=1e-3)


@pytest.mark.parametrize("group", GROUPS)
def test_absmean_and_lsq_are_the_codecs_own(group: Group) -> None:
    """The training layer and `quant` choose the same codes for the same matrix."""
    weight = matrix()
    packed = encode(weight, parse(f"ternary@{group}"))
    codes, scale = ternarised(weight, Grid(group))
    ours = unblocked(codes * scale, (6, 200), Grid(group))
    assert torch.allclose(decode(packed), ours, atol=1e-6)


@given(st.integers(0, 1000), st.floats(0.1, 1.5))
@settings(max_examples=30, deadline=None)
def test_the_least_squares_scale_has_no_better(seed: int, threshold: float) -> None:
    weight = matrix(3, 64, seed)
    grid = Grid(64, "lsq", threshold)
    codes, _ = ternarised(weight, grid)
    best = fitted(blocks(weight, grid), codes)

    def error(scale: Tensor) -> Tensor:
        return (blocks(weight, grid) - codes * scale).square().sum()

    assert error(best) <= error(best * 1.02) + 1e-9
    assert error(best) <= error(best * 0.98) + 1e-9


def test_a_short_last_group_is_no_heavier_for_its_padding() -> None:
    weight = matrix(2, 130)
    _, scale = ternarised(weight, Grid(128))
    assert scale.shape == (2, 2, 1)
    assert torch.allclose(scale[:, 1, 0], weight[:, 128:].abs().mean(1), rtol=1e-3)


# --- the schedule ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@given(share=st.floats(0.05, 1.0), one=st.floats(0, 1), two=st.floats(0, 1))
def test_every_warmup_rises_and_ends_at_exactly_one(
    shape: Shape, share: float, one: float, two: float
) -> None:
    warm = Warmup(shape, share)
    low, high = sorted((one, two))
    assert 0 <= warm.at(low) <= warm.at(high) + 1e-12
    assert warm.at(share) == warm.at(1.0) == warm.at(7.0) == 1.0
    assert warm.at(0.0) == (1.0 if shape == "none" else pytest.approx(0.0, abs=1e-12))


def test_shapes_differ_in_the_middle() -> None:
    found = {shape: Warmup(shape, 1.0).at(0.25) for shape in SHAPES}
    assert len({round(value, 6) for value in found.values()}) == len(SHAPES)
    assert Warmup("two-phase", 1.0, 0.9).at(0.5) == pytest.approx(0.9)
    with pytest.raises(BadValueError):
        Warmup("linear", 1.5)


# --- the layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("rule", RULES)
def test_what_is_stored_computes_what_was_trained(group: Group, rule: Rule) -> None:
    made = layer(Grid(group, rule), Recovery(reactivation=0.3, bias=True))
    assert made.bias is not None
    with torch.no_grad():
        made.bias.copy_(torch.linspace(-0.1, 0.1, 6))
    x = torch.randn(5, 200)
    kept = store(made)
    assert kept.bias is not None
    frozen = Frozen(kept.packed)
    weight = decode(kept.packed)
    assert torch.equal(frozen.weight(torch.float32), weight)
    whole = made.whole_bias()
    assert whole is not None
    assert torch.equal(F.linear(x, weight, whole), made(x)), "bit for bit"
    assert torch.equal(kept.bias.float(), whole), "the bias too"
    assert torch.equal(scales_of(kept.packed), made.scales())


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_lambda_blends_and_gradients_pass_straight_through(strength: float) -> None:
    made = layer(Grid(64), strength=strength)
    x, slope = torch.randn(4, 200), torch.randn(4, 6)
    y = made(x)
    codes, scale = ternarised(made.weight.detach(), made.grid)
    held = unblocked(codes * scale, made.shape, made.grid)
    blended = (1 - strength) * made.weight + strength * held
    assert torch.allclose(y, F.linear(x, blended), atol=1e-5)
    y.backward(slope)
    assert made.weight.grad is not None
    assert torch.allclose(made.weight.grad, slope.t() @ x, atol=1e-5)


def test_dead_weights_have_a_gradient_of_their_own() -> None:
    x, slope = torch.randn(4, 200), torch.randn(4, 6)
    plain, half = layer(Grid(64)), layer(Grid(64), Recovery(gradient=0.5))
    for made in (plain, half):
        made(x).backward(slope)
    dead = unblocked(plain.codes() == 0, plain.shape, plain.grid)
    assert plain.weight.grad is not None
    assert half.weight.grad is not None
    assert 0 < dead.float().mean() < 1
    assert torch.allclose(half.weight.grad[dead], 0.5 * plain.weight.grad[dead])
    assert torch.equal(half.weight.grad[~dead], plain.weight.grad[~dead])


def test_reactivation_adds_dead_weights_up_as_a_bias_that_trains_them() -> None:
    made = layer(Grid(64), Recovery(reactivation=0.5))
    dead = unblocked(made.codes() == 0, made.shape, made.grid)
    bias = made.whole_bias()
    assert bias is not None
    assert torch.allclose(bias, 0.5 * (made.weight * dead).sum(1), rtol=1e-3)
    made(torch.zeros(3, 200)).sum().backward()
    assert made.weight.grad is not None
    assert made.revival is not None
    assert made.revival.grad is not None
    assert torch.allclose(made.weight.grad, 1.5 * dead), "three tokens, half of each"
    made.strength = 0.0
    assert not made.whole_bias().any(), "as strong as the ternary part"  # type: ignore[union-attr]


def test_a_learned_scale_is_trained_by_what_its_codes_say() -> None:
    made = layer(Grid(64, "learned"), strength=0.6)
    x, slope = torch.randn(4, 200), torch.randn(4, 6)
    made(x).backward(slope)
    assert made.scale is not None
    assert made.scale.grad is not None
    expected = 0.6 * (blocks(slope.t() @ x, made.grid) * made.codes()).sum(-1, keepdim=True)
    assert torch.allclose(made.scale.grad, expected, atol=1e-4)
    with torch.no_grad():
        made.scale.mul_(2)
    doubled = made.scales()
    assert torch.allclose(doubled, 2 * layer(Grid(64, "learned")).scales(), rtol=1e-3)


def test_activations_in_eight_bits_are_close_and_let_gradients_through() -> None:
    x = torch.randn(7, 33, requires_grad=True)
    held = bits8(x)
    found = held.detach()
    largest = x.detach().abs().amax(-1, keepdim=True)
    assert bool(((found - x).abs() <= largest / 127 * 0.51 + 1e-3 * largest).all())
    steps = found / (largest / 127)
    assert float((steps - steps.round()).abs().max()) < 0.2
    held.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))  # type: ignore[arg-type]


def test_zero_dead_and_flipped_weights_are_counted() -> None:
    made = layer(Grid(64))
    first = made.look()
    assert first.zero == first.dead
    assert first.flipped == 0
    with torch.no_grad():
        made.weight[0] = -made.weight[0]
    second = made.look()
    codes = unblocked(made.codes(), made.shape, made.grid)
    assert second.zero == first.zero
    assert second.flipped == pytest.approx(float((codes[0] != 0).float().sum()) / codes.numel())


# --- for good -------------------------------------------------------------------------------------


def test_what_is_not_yet_ternary_is_not_stored() -> None:
    with pytest.raises(RunError, match=r"at lambda = 1, not at 0\.999"):
        store(layer(Grid(64), strength=0.999))


@pytest.mark.parametrize(("group", "bits"), [(32, 0.5), (128, 0.125)])
def test_effective_bits_count_scales_biases_and_all_that_was_left_alone(
    group: int, bits: float
) -> None:
    wide = TernaryLinear(matrix(8, 640), None, Grid(group))
    wide.strength = 1.0
    found = effective_bits({"a": store(wide)}, [])
    assert found == pytest.approx(1.6 + bits, abs=1e-6)
    biased = TernaryLinear(matrix(8, 640), None, Grid(group), Recovery(bias=True))
    biased.strength = 1.0
    assert effective_bits({"a": store(biased)}, []) - found == pytest.approx(16 * 8 / (8 * 640))
    assert effective_bits({"a": store(wide)}, [640]) - found == pytest.approx(1.0)
    with pytest.raises(RunError, match="no layer is ternary"):
        effective_bits({}, [100])


def test_the_schedules_lambda_reaches_every_layer() -> None:
    model = nn.Sequential(layer(Grid(64)), nn.Linear(6, 6), layer(Grid("row")))
    set_strength(model, 0.25)
    assert [made.strength for made in layers(model).values()] == [0.25, 0.25]


# --- the teacher ----------------------------------------------------------------------------------


@given(st.integers(0, 100), st.sampled_from([1, 5, 20, 50]))
@settings(max_examples=25, deadline=None)
def test_a_kept_teacher_diverges_no_more_than_the_whole_one(seed: int, k: int) -> None:
    source = torch.Generator().manual_seed(seed)
    teacher, student = (2 * torch.randn(6, 50, generator=source) for _ in range(2))
    whole = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True,
                     reduction="batchmean")  # fmt: skip
    found = divergence(student, keep(teacher, k))
    assert -1e-3 <= float(found) <= float(whole) * 1.01 + 1e-3
    assert float(divergence(teacher, keep(teacher, k))) == pytest.approx(0.0, abs=2e-3)
    if k == 50:
        assert float(found) == pytest.approx(float(whole), rel=0.02, abs=5e-3)


def test_a_teacher_takes_few_bytes_a_token() -> None:
    features = {3: torch.randn(10, 16)}
    kept = keep(torch.randn(10, 5000), 8, features)
    assert kept.nbytes == 10 * (8 * 2 + 8 * 4 + 2 + 16 * 2)


def test_features_are_held_to_direction_or_to_distance() -> None:
    features = {1: torch.randn(9, 12), 4: torch.randn(9, 12)}
    kept = keep(torch.randn(9, 20), 4, features)
    scaled = {layer: 3 * t for layer, t in features.items()}
    turned = {layer: -t for layer, t in features.items()}
    assert float(off(features, kept)) == pytest.approx(0.0, abs=1e-3)
    assert float(off(scaled, kept)) == pytest.approx(0.0, abs=1e-3)
    assert float(off(turned, kept)) == pytest.approx(2.0, abs=1e-3)
    assert float(feature_error(scaled, kept)) == pytest.approx(4.0, rel=0.01)


def test_a_ternary_model_can_be_trained() -> None:
    """Least squares with three values a row: loss falls, and ends within reach of the best."""
    torch.manual_seed(0)
    x = torch.randn(256, 64)
    target = torch.randint(-1, 2, (4, 64)).float() * 0.1
    made = TernaryLinear(0.02 * torch.randn(4, 64), None, Grid("row"))
    warm, optimiser = Warmup("linear", 0.5), torch.optim.Adam(made.parameters(), lr=0.01)
    losses = []
    for step in range(300):
        set_strength(made, warm.at(step / 299))
        loss = (made(x) - x @ target.t()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    agree = (unblocked(made.codes(), made.shape, made.grid) == target.sign()).float().mean()
    assert float(agree) > 0.95
    assert losses[-1] < 0.05 * losses[0]
    assert math.isfinite(losses[-1])
