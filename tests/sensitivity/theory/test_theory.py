"""Every equation against a simulation, a limit, or a definition written out another way."""

from __future__ import annotations

import itertools
import re
from math import inf, log2, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from original_plan import equations, rounding
from original_plan import latex as prose
from original_plan import original_formulas as documents
from scipy import stats

from lowbit.core.errors import UserError
from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import FORMATS, bits_of, parse
from lowbit.sensitivity.theory import damage, distortion

SAMPLE = 400_000


def gaussian(count: int = SAMPLE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


# --- one weight -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0, 3.5])
def test_the_series_of_a_midtread_grid_are_those_of_a_simulation(width: float) -> None:
    w = gaussian()
    e = width * np.round(w / width) - w
    for found, sample in (
        (rounding.midtread_variance(width, 1.0), e**2),
        (rounding.midtread_covariance(width, 1.0), w * e),
    ):
        assert abs(found - sample.mean()) < 5 * sample.std() / sqrt(SAMPLE)


def test_a_twelfth_is_right_while_steps_are_small_and_wrong_when_they_are_not() -> None:
    for width, off in ((0.88, 0.01), (1.9, 0.02)):
        ratio = rounding.midtread_variance(width, 1.0) / rounding.uniform_variance(width)
        assert abs(ratio - 1) < off
    assert abs(rounding.midtread_variance(4.0, 1.0) / rounding.uniform_variance(4.0) - 1) > 0.1


def test_rounding_at_random_doubles_the_variance() -> None:
    rng = np.random.default_rng(1)
    w, width = gaussian(seed=2), 0.3
    e = width * np.floor(w / width + rng.random(SAMPLE)) - w
    assert (e**2).mean() == pytest.approx(rounding.stochastic_variance(width), rel=0.01)
    assert abs(e.mean()) < 1e-3


def test_a_step_divides_the_range_into_its_codes() -> None:
    assert rounding.step(7.0, 4) == 1.0
    assert rounding.step(1.0, 2) == 1.0


# --- formats --------------------------------------------------------------------------------------

TABLE = {  # of N(0, 1) weights by four million samples: two bits are three levels here
    32: {"int2:sym": 0.433, "int3": 0.0513, "int4": 0.00941, "int8": 2.86e-5, "nf4": 0.00762},
    64: {"int2:sym": 0.514, "int3": 0.0630, "int4": 0.01156, "int8": 3.51e-5, "nf4": 0.00844},
    128: {"int2:sym": 0.588, "int3": 0.0750, "int4": 0.01377, "int8": 4.18e-5, "nf4": 0.00914},
    256: {"int2:sym": 0.651, "int3": 0.0869, "int4": 0.01595, "int8": 4.86e-5, "nf4": 0.00974},
}


@pytest.mark.parametrize(("size", "name"), [(m, f) for m, row in TABLE.items() for f in row])
def test_integration_meets_the_sampled_table(size: int, name: str) -> None:
    base, _, variant = name.partition(":")
    spec = parse(f"{base}@{size}" + (f":{variant}" if variant else ""))
    assert distortion.distortion(spec, size) == pytest.approx(TABLE[size][name], rel=0.012)


@pytest.mark.parametrize("size", [16, 64, 128])
@pytest.mark.parametrize("name", [*FORMATS, "int4:full", "int2:sym", "int3:even"])
def test_integration_is_what_our_own_encoder_does(name: str, size: int) -> None:
    base, _, variant = name.partition(":")
    spec = parse(f"{base}@{size}" + (f":{variant}" if variant else ""))
    weight = torch.randn(4096, 2 * size, generator=torch.Generator().manual_seed(3))
    errors = (decode(encode(weight, spec)) - weight).square().double()
    mean, spread = float(errors.mean()), float(errors.mean(1).std()) / sqrt(4096)
    # fp16 scales move the grid by up to 2^-11, which only eight bits notice.
    allowed = 4 * spread + 0.002 * mean + (2e-7 if bits_of(spec) > 6 else 0.0)
    assert abs(distortion.distortion(spec, size) - mean) < allowed


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("rule", ["mse", "lsq"])
@pytest.mark.parametrize("base", ["int2", "int3", "int4", "int6", "int8", "nf4", "ternary"])
def test_a_fitted_scale_is_what_our_encoder_fits_within_a_few_per_cent(
    base: str, rule: str, size: int
) -> None:
    spec = parse(f"{base}@{size}:{rule}")
    weight = torch.randn(2048, 2 * size, generator=torch.Generator().manual_seed(3))
    mean = float((decode(encode(weight, spec)) - weight).square().double().mean())
    ratio = mean / distortion.distortion(spec, size)
    # The encoder fits to every weight of a group; lsq may be caught short of the best.
    assert 0.88 < ratio < (1.005 if rule == "mse" else 1.08)


@pytest.mark.parametrize("name", ["int4:zp", "int4:min", "int8:min"])
def test_a_grid_over_the_range_is_right_within_a_few_per_cent(name: str) -> None:
    spec = parse(name.replace(":", "@64:"))
    weight = torch.randn(4096, 128, generator=torch.Generator().manual_seed(3))
    mean = float((decode(encode(weight, spec)) - weight).square().double().mean())
    assert distortion.distortion(spec, 64) == pytest.approx(mean, rel=0.06)


def test_the_best_scale_of_a_ternary_code_is_lloyds() -> None:
    scale, error = distortion.best_scale((-1.0, 0.0, 1.0))
    assert scale == pytest.approx(1.224, abs=2e-3)
    assert error == pytest.approx(0.190, abs=1e-3)


def test_one_bit_is_not_worth_a_factor_of_four() -> None:
    kappas = {b: distortion.kappa(parse(f"int{b}@64"), 64, b) for b in (3, 4, 5, 6, 8)}
    expected = {3: 4.0, 4: 3.0, 5: 2.6, 6: 2.4, 8: 2.3}
    for bits, value in expected.items():
        assert kappas[bits] == pytest.approx(value, abs=0.06)
    assert pytest.approx(2.72, abs=0.01) == distortion.PANTER_DITE


def test_panter_and_dite_is_what_their_compander_does_at_high_rate() -> None:
    w, codes = gaussian(seed=11), 2**9
    # Levels as dense as the cube root of the density, which is a Gaussian of variance three.
    place = np.floor(stats.norm.cdf(w / sqrt(3)) * codes)
    e = sqrt(3) * stats.norm.ppf((place + 0.5) / codes) - w
    assert (e**2).mean() == pytest.approx(distortion.PANTER_DITE * 4.0**-9, rel=0.02)


def test_a_cast_has_no_grid() -> None:
    with pytest.raises(UserError, match="bf16 has no grid"):
        distortion.distortion(parse("bf16"), 64)


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6, unique=True), st.floats(0.3, 4))
@settings(max_examples=40, deadline=None)
def test_the_error_of_any_grid_is_the_integral(levels: list[float], reach: float) -> None:
    grid = tuple(sorted(levels))
    w = np.linspace(-reach, reach, 200_001)
    density = np.exp(-w * w / 2)
    error = np.min([(w - level) ** 2 for level in grid], axis=0)
    expected = np.trapezoid(error * density, w) / np.trapezoid(density, w)
    assert distortion.grid_error(grid, reach) == pytest.approx(expected, rel=1e-4, abs=1e-9)


# --- from weights to nats -------------------------------------------------------------------------


def problem(size: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradient, a Hessian that is positive, and variances."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return rng.normal(size=size), root @ root.T / size, rng.uniform(0.5, 1.5, size)


def test_mean_and_variance_of_the_damage_are_those_of_a_simulation() -> None:
    g, H, variance = problem()
    H = np.diag(np.diag(H))
    e = np.random.default_rng(1).normal(size=(SAMPLE // 4, 30)) * np.sqrt(variance)
    loss = e @ g + 0.5 * np.einsum("ni,ij,nj->n", e, H, e)
    mean = damage.expected_damage(np.diag(H), variance)
    assert loss.mean() == pytest.approx(mean, abs=5 * loss.std() / sqrt(len(loss)))
    assert loss.var() == pytest.approx(damage.damage_variance(g, variance, np.diag(H)), rel=0.03)


def test_cross_terms_vanish_in_the_mean() -> None:
    _, H, variance = problem(seed=2)
    e = np.random.default_rng(3).normal(size=(SAMPLE // 4, 30)) * np.sqrt(variance)
    loss = 0.5 * np.einsum("ni,ij,nj->n", e, H, e)
    mean = damage.expected_damage(np.diag(H), variance)
    assert loss.mean() == pytest.approx(mean, abs=5 * loss.std() / sqrt(len(loss)))


def stored_errors(bits: int, spreads: np.ndarray, draws: int = 8000) -> np.ndarray:
    """Of Gaussian weights, in groups of 64 with a deviation each: (draws, weights)."""
    w = torch.randn(draws, len(spreads) * 64, generator=torch.Generator().manual_seed(bits))
    w = w * torch.from_numpy(np.repeat(spreads, 64)).float()
    return (decode(encode(w, parse(f"int{bits}@64"))) - w).double().numpy()


@pytest.mark.parametrize("bits", [3, 4, 5, 6])
def test_the_main_bound_is_the_mean_damage_of_our_own_encoder(bits: int) -> None:
    g, H, _ = problem(128, seed=20)
    spreads = np.array([1.0, 0.4])
    kappa = distortion.kappa(parse(f"int{bits}@64"), 64, bits)
    bound = damage.damage_bound(bits, kappa, np.diag(H), np.repeat(spreads**2, 64))
    e = stored_errors(bits, spreads)
    lost = e @ g + 0.5 * ((e @ H) * e).sum(1)
    assert abs(lost.mean() - bound) < 5 * lost.std() / sqrt(len(lost)) + 0.002 * bound
    # Its C_b falls with b, so that of three bits serves for all.
    assert kappa <= distortion.kappa(parse("int3@64"), 64, 3)


def test_what_the_main_bound_leaves_out_falls_as_sixteen_to_the_minus_bits() -> None:
    """Of a loss with third and fourth orders: errors are symmetric, so the third has no mean."""
    third, left = np.random.default_rng(21).normal(size=64), {}
    for bits in (3, 4, 5, 6):
        e = stored_errors(bits, np.ones(1))
        odd = e**3 @ third
        assert abs(odd.mean()) < 5 * odd.std() / sqrt(len(e))
        kappa = distortion.kappa(parse(f"int{bits}@64"), 64, bits)
        left[bits] = (e**4).sum(1).mean() / (kappa * 4.0**-bits) ** 2
    for bits in (4, 5, 6):  # the same share of (C_b 4^-b)^2 at all bits
        assert left[bits] == pytest.approx(left[3], rel=0.03)


def test_the_main_bound_bounds_the_mean_and_no_single_realisation() -> None:
    g, H, _ = problem(64, seed=22)
    kappa = distortion.kappa(parse("int8@64"), 64, 8)
    bound = damage.damage_bound(8, kappa, np.diag(H), np.ones(64))
    e = stored_errors(8, np.ones(1))
    lost = e @ g + 0.5 * ((e @ H) * e).sum(1)
    assert (lost > 2 * bound).mean() > 0.4
    assert (lost < 0).mean() > 0.4


def test_layers_damages_add_up_whatever_bits_each_has() -> None:
    g, H, _ = problem(192, seed=23)
    each = {3: slice(0, 64), 4: slice(64, 128), 6: slice(128, 192)}
    e = np.concatenate([stored_errors(bits, np.ones(1), 20_000) for bits in each], axis=1)
    curvatures = [np.diag(H)[mine] for mine in each.values()]
    variances = [np.full(64, distortion.distortion(parse(f"int{b}@64"), 64)) for b in each]
    layers = damage.layer_damages(curvatures, variances)
    alone = [0.5 * ((e[:, i] @ H[i, i]) * e[:, i]).sum(1).mean() for i in each.values()]
    assert layers == pytest.approx(alone, rel=0.01)
    lost = e @ g + 0.5 * ((e @ H) * e).sum(1)  # blocks between layers and all
    assert abs(lost.mean() - sum(layers)) < 5 * lost.std() / sqrt(len(lost)) + 0.002 * sum(layers)


def test_the_first_order_takes_over_at_the_crossover() -> None:
    g, H, variance = problem(seed=4)
    at = damage.crossover(0.1 * g, np.diag(H), variance, bits=4)
    fewer = variance * 4.0 ** (4 - at)
    mean = damage.expected_damage(np.diag(H), fewer)
    assert mean == pytest.approx(sqrt(damage.damage_variance(0.1 * g, fewer)))
    assert damage.crossover(0 * g, np.diag(H), variance, 4) == inf


def test_at_the_crossover_both_orders_of_simulated_noise_are_alike() -> None:
    g, H, variance = problem(seed=4)
    at = damage.crossover(0.1 * g, np.diag(H), variance, bits=4)
    draws = np.random.default_rng(5).normal(size=(SAMPLE // 4, 30))
    e = draws * np.sqrt(variance * 4.0 ** (4 - at))
    second = 0.5 * np.einsum("ni,ij,nj->n", e, H, e)
    assert (0.1 * e @ g).std() == pytest.approx(second.mean(), rel=0.02)


def test_half_the_step_is_a_quarter_of_simulated_damage() -> None:
    _, H, _ = problem(seed=12)
    w = gaussian(30 * 20_000, seed=13).reshape(-1, 30)
    found = {}
    for bits in (6, 7):
        width = 8.0 * 2.0**-bits
        e = width * np.round(w / width) - w
        found[bits] = 0.5 * np.einsum("ni,ij,nj->n", e, H, e).mean()
    assert found[7] == pytest.approx(damage.damage_at(7, 6, found[6]), rel=0.02)


def test_an_adapter_has_as_many_directions_as_its_tangent_space() -> None:
    rng = np.random.default_rng(14)
    for (m, n), rank in (((5, 4), 1), ((5, 4), 2), ((6, 3), 3), ((4, 4), 9)):
        r = min(rank, m, n)
        B, A = rng.normal(size=(m, r)), rng.normal(size=(r, n))
        # d(BA) = dB A + B dA, one column for every number of B and of A.
        left = [np.outer(np.eye(m)[i], A[k]).ravel() for i in range(m) for k in range(r)]
        right = [np.outer(B[:, k], np.eye(n)[j]).ravel() for j in range(n) for k in range(r)]
        found = np.linalg.matrix_rank(np.array(left + right))
        assert damage.adapter_parameters([(m, n)], rank) == found


def test_the_bits_asked_for_cost_the_share_of_what_few_examples_cost() -> None:
    rng = np.random.default_rng(15)
    parameters, examples, repeats = 20, 400, 2000
    # Least squares with unit noise: half the squared error of an estimate is p / (2 N) on average.
    X = rng.normal(size=(repeats, examples, parameters))
    y = rng.normal(size=(repeats, examples, 1))
    off = np.linalg.solve(X.transpose(0, 2, 1) @ X, X.transpose(0, 2, 1) @ y)
    statistical = 0.5 * (off**2).sum(1).mean()
    bits = damage.bits_needed(0.5 * 30, 1 / 12, examples, parameters, share=0.5)
    e = 2.0**-bits * (rng.random(size=(SAMPLE // 4, 30)) - 0.5)
    assert 0.5 * (e**2).sum(1).mean() == pytest.approx(0.5 * statistical, rel=0.08)


def test_more_rank_never_leaves_more_behind() -> None:
    g, H, _ = problem(seed=5)
    rng = np.random.default_rng(6)
    tangent, e = rng.normal(size=(30, 12)), rng.normal(size=30)
    g = g - tangent @ np.linalg.lstsq(tangent, g, rcond=None)[0]
    left = [damage.unreachable(g, H, tangent[:, :k], e) for k in range(1, 13)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(left))
    # And it is what the best correction inside the tangent space leaves.
    best = np.linalg.solve(tangent.T @ H @ tangent, -tangent.T @ H @ e)
    moved = e + tangent @ best
    assert left[-1] == pytest.approx(float(g @ e + 0.5 * moved @ H @ moved))


def test_an_adapter_that_is_trained_ends_where_the_unreachable_begins() -> None:
    """Gradient descent within the tangent space, from errors that were drawn."""
    g, H, variance = problem(seed=5)
    rng = np.random.default_rng(9)
    tangent = np.linalg.qr(rng.normal(size=(30, 12)))[0]
    g = g - tangent @ (tangent.T @ g)
    for _ in range(5):
        e, adapter = rng.normal(size=30) * np.sqrt(variance), np.zeros(12)
        rate = 1 / np.linalg.eigvalsh(tangent.T @ H @ tangent)[-1]
        for _ in range(4000):
            adapter -= rate * (tangent.T @ (g + H @ (e + tangent @ adapter)))
        moved = e + tangent @ adapter
        trained = float(g @ moved + 0.5 * moved @ H @ moved)
        left = damage.unreachable(g, H, tangent, e)
        assert trained == pytest.approx(left, rel=1e-3, abs=1e-9)
        near = moved[None] + rng.normal(scale=1e-2, size=(200, 12)) @ tangent.T
        assert (near @ g + 0.5 * np.einsum("ni,ij,nj->n", near, H, near)).min() >= left - 1e-9


def test_the_rule_for_bits_has_rank_with_a_minus() -> None:
    shapes = [(64, 64), (128, 64)]
    p = {r: damage.adapter_parameters(shapes, r) for r in (1, 4, 16)}
    assert p[4] == 4 * (128 - 4) + 4 * (192 - 4)
    needed = {r: damage.bits_needed(0.3, 3.0, 10_000, p[r], 0.5) for r in p}
    assert needed[1] > needed[4] > needed[16]
    b = needed[4]
    assert 3.0 * 0.3 * 4.0**-b == pytest.approx(0.5 * p[4] / (2 * 10_000))
    assert documents.bits_rule(16, 100) > documents.bits_rule(4, 100)


def test_what_a_low_rank_correction_leaves_is_eckart_youngs() -> None:
    matrix = np.random.default_rng(7).normal(size=(9, 6))
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    for rank in range(7):
        best = u[:, :rank] * s[:rank] @ v[:rank]
        share = ((matrix - best) ** 2).sum() / (matrix**2).sum()
        assert damage.residual_share(s, rank) == pytest.approx(share, abs=1e-12)


def test_corrections_that_are_fitted_by_turns_leave_what_eckart_and_young_say() -> None:
    rng = np.random.default_rng(10)
    matrix = rng.normal(size=(9, 6)) * np.arange(1, 7)
    singular = np.linalg.svd(matrix, compute_uv=False)
    for rank in range(1, 6):
        b = rng.normal(size=(rank, 6))
        for _ in range(400):
            a = np.linalg.lstsq(b.T, matrix.T, rcond=None)[0].T
            b = np.linalg.lstsq(a, matrix, rcond=None)[0]
        fitted = ((matrix - a @ b) ** 2).sum() / (matrix**2).sum()
        assert damage.residual_share(singular, rank) == pytest.approx(fitted, rel=1e-3)


def test_a_frozen_base_shifts_gradients_and_only_fresh_noise_spreads_them() -> None:
    _, H, variance = problem(seed=8)
    e = np.random.default_rng(9).normal(size=(20_000, 30)) * np.sqrt(variance)
    shifts = e @ H
    found = damage.fresh_noise_variance(H, variance)
    assert np.trace(np.cov(shifts.T)) == pytest.approx(np.trace(found), rel=0.03)
    assert np.allclose(damage.gradient_bias(H, e[0]), shifts[0])
    assert damage.noise_ratio(3, 4) == pytest.approx(5.44, abs=0.01)


def test_minibatch_gradients_at_a_stored_base_are_off_by_h_times_the_error() -> None:
    """Of squared errors of drawn examples, one at a time: on average, with the true Hessian."""
    rng = np.random.default_rng(26)
    root = rng.normal(size=(6, 6)) / sqrt(6)
    examples = rng.normal(size=(100_000, 6)) @ root
    targets = examples @ rng.normal(size=6) + rng.normal(size=len(examples))
    here, error = rng.normal(size=6), 0.1 * rng.normal(size=6)

    def gradients(w: np.ndarray) -> np.ndarray:
        return np.asarray(examples * (examples @ w - targets)[:, None])

    apart = gradients(here + error) - gradients(here)
    spread = apart.std(0) / sqrt(len(apart))
    expected = damage.gradient_bias(root.T @ root, error)
    assert np.all(np.abs(apart.mean(0) - expected) < 5 * spread)
    assert np.abs(expected).max() > 20 * spread.max(), "or nothing is shown"


def test_a_frozen_base_adds_what_the_hessians_of_batches_differ_by() -> None:
    _, H, variance = problem(seed=24)
    rng = np.random.default_rng(25)
    apart = rng.normal(size=(400, 30, 30))
    hessians = H + 0.1 * (apart + apart.transpose(0, 2, 1))
    gradients = rng.normal(size=(400, 30))
    added = []
    for e in rng.normal(size=(2000, 30)) * np.sqrt(variance):
        moved = gradients + hessians @ e
        added.append((moved.var(0) - gradients.var(0)).sum())
    found = damage.frozen_noise_variance(hessians, variance)
    assert found > 1
    assert np.mean(added) == pytest.approx(found, abs=5 * np.std(added) / sqrt(len(added)))
    assert damage.frozen_noise_variance(np.stack([H, H, H]), variance) == pytest.approx(0.0)


def test_fresh_noise_scales_with_the_square_of_the_step() -> None:
    _, H, _ = problem(seed=16)
    rng, spread = np.random.default_rng(17), {}
    for bits in (3, 4):
        fresh = rounding.step(1.0, bits) * (rng.random(size=(40_000, 30)) - 0.5)
        spread[bits] = np.trace(np.cov((fresh @ H).T))
    assert spread[3] / spread[4] == pytest.approx(damage.noise_ratio(3, 4), rel=0.03)


def test_so_many_tokens_resolve_a_gap_of_a_perturbed_model() -> None:
    rng = np.random.default_rng(18)
    logits = rng.normal(size=50)
    moved = logits + 0.2 * rng.normal(size=50)
    p, q = (np.exp(z) / np.exp(z).sum() for z in (logits, moved))
    gap = float((p * np.log(p / q)).sum())
    tokens = int(damage.tokens_to_resolve(gap, 0.05))
    # The gap as so many tokens would show it, many times over.
    counts = rng.multinomial(tokens, p, size=4000)
    shown = counts @ np.log(p / q) / tokens
    assert shown.std() / gap == pytest.approx(0.05, rel=0.1)


# --- the converse ---------------------------------------------------------------------------------


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.floats(0.05, 8))
def test_water_fills_to_the_bits_there_are(values: list[float], bits: float) -> None:
    least = damage.converse(values, bits)
    # The level by bisection, which knows nothing of the closed form.
    low, high = 1e-12, max(values)
    for _ in range(200):
        theta = sqrt(low * high)
        used = 0.5 * sum(max(0.0, log2(v / theta)) for v in values)
        low, high = (theta, high) if used > bits * len(values) else (low, theta)
    assert least == pytest.approx(0.5 * sum(min(theta, v) for v in values), rel=1e-6)


def test_no_format_beats_the_converse() -> None:
    for name in ("int3@64", "int4@64", "nf4@64", "int8@64"):
        spec = parse(name)
        ideal = 2 * damage.converse(np.ones(100), bits_of(spec)) / 100
        assert distortion.distortion(spec, 64) > ideal
        assert ideal == pytest.approx(4.0 ** -bits_of(spec))


def rounded(variances: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """Damage and bits a weight of Gaussians rounded to steps of these sizes, entropy coded."""
    lost, bits = 0.0, 0.0
    for i, (variance, step) in enumerate(zip(variances, steps, strict=True)):
        w = sqrt(variance) * gaussian(SAMPLE // 4, seed=i)
        codes = np.rint(w / step).astype(int)
        lost += 0.5 * float(((w - step * codes) ** 2).mean())
        shares = np.unique(codes, return_counts=True)[1] / len(codes)
        bits -= float((shares * np.log2(shares)).sum())
    return lost, bits / len(variances)


@pytest.mark.parametrize("step", [0.02, 0.1, 0.5, 1.5])
def test_no_code_of_unequal_directions_beats_the_converse(step: float) -> None:
    """Rounding all to one step is what water-filling asks for: a quarter bit a weight behind."""
    variances = np.array([4.0, 1.0, 0.25, 0.01, 0.0004])
    lost, bits = rounded(variances, np.full(5, step))
    least = damage.converse(variances, bits)
    assert least < lost
    if step < 0.05:
        assert lost / least == pytest.approx(np.pi * np.e / 6, rel=0.02)
    evenly, spent = rounded(variances, step * np.sqrt(variances))
    assert damage.converse(variances, spent) < evenly


def test_rounding_every_direction_to_as_many_bits_loses_the_means_ratio() -> None:
    variances = np.array([4.0, 1.0, 0.25, 0.05])
    mean = float(np.exp(np.log(variances).mean()))
    evenly, spent = rounded(variances, 0.05 * np.sqrt(variances))
    filled, bits = rounded(variances, np.full(4, 0.05 * sqrt(mean)))
    assert spent == pytest.approx(bits, abs=0.01)
    assert evenly / filled == pytest.approx(damage.means_ratio(variances), rel=0.02)


def test_unequal_directions_cost_their_means_ratio() -> None:
    values = [4.0, 1.0]
    assert damage.means_ratio(values) == pytest.approx(2.5 / 2)
    even = 0.5 * 4.0**-3 * sum(values)
    assert even / damage.converse(values, 3) == pytest.approx(damage.means_ratio(values))


# --- the documents' own ---------------------------------------------------------------------------


def test_the_documents_terms_balance_at_quarters_not_halves() -> None:
    for rank, examples in ((4, 1000), (16, 50_000)):
        b = documents.balanced_bits(rank, examples)
        assert rank * 4.0**-b == pytest.approx(sqrt(rank / examples))
        assert documents.bits_rule(rank, examples) == pytest.approx(2 * b, rel=1e-9)


def test_the_documents_law_is_a_factor_of_four_a_bit() -> None:
    assert documents.gap_law(3, 2.0) / documents.gap_law(4, 2.0) == 4
    assert documents.loss_bound(8, 100, 4, 1.0) > documents.loss_bound(4, 100, 4, 1.0)
    more = documents.gradient_variance_bound(1.0, 8, 4, 1.0, 1.0)
    assert more - 1.0 == pytest.approx(8 * 4.0**-4)
    assert damage.damage_at(3, 4, 1.0) == 4.0
    assert damage.tokens_to_resolve(0.01) == pytest.approx(800 / 0.01)


# --- the equations as LaTeX -----------------------------------------------------------------------


def test_every_numbered_function_has_its_equation_and_the_other_way_round() -> None:
    modules = (damage, distortion, rounding, documents)
    source = "".join(Path(str(m.__file__)).read_text(encoding="utf-8") for m in modules)
    numbered = set(re.findall(r'"""\((D?\d+\'?)\)', source))
    assert numbered | {"D5"} == {one.tag for one in equations.EQUATIONS}


@pytest.mark.parametrize("one", equations.EQUATIONS, ids=lambda one: one.tag)
def test_a_snippet_is_balanced_latex(one: equations.Equation) -> None:
    text = equations.snippet(one)
    assert text.count("{") == text.count("}")
    assert one.latex.count(r"\left") == one.latex.count(r"\right")
    assert text in prose.document(["# All of them"])
    assert one.says.endswith(".")
    assert one.says.count("$") % 2 == 0


def test_prose_becomes_latex_and_its_equations_follow_it() -> None:
    said = "# What & why\n\nA *slanted* **bold $\\kappa_b$** 5 % of `a_b/c` (12, D2')."
    text = prose.document([said, "## Then\n\nMore (12).", "The last (13) word."])
    assert r"\title{What \& why}" in text
    assert r"A \emph{slanted} \textbf{bold $\kappa_b$} 5 \% of \texttt{a\_" in text
    assert r"\section*{Then}" in text
    places = [text.index(rf"\tag{{{tag}}}") for tag in ("12", "D2'", "13", "1", "26")]
    assert places == sorted(places)
    assert places[1] < text.index("section*") < places[2]
    for one in equations.EQUATIONS:
        assert text.count(equations.snippet(one)) == 1


def test_the_derivation_speaks_of_every_equation() -> None:
    """What it leaves out would stand underived at the end of theory.pdf."""
    path = Path(__file__).parents[3] / "notebooks" / "quant_noise.py"
    named = {tag for found in prose.CITATION.findall(path.read_text(encoding="utf-8"))
             for tag in found.split(", ")}  # fmt: skip
    assert {one.tag for one in equations.EQUATIONS} <= named
