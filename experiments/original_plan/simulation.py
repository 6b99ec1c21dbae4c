"""The noise model compared with Monte Carlo, law by law. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowbit.quant.formats import parse
from lowbit.sensitivity.theory import damage, distortion
from original_plan import rounding
from original_plan.rounding import rounded

FORMATS = ("int8@64", "int6@64", "int5@64", "int4@64", "nf4@64", "int3@64", "int2@64", "ternary@64")
BITS = (3, 4, 5, 6, 8)
GROUPS, SIZE = 20_000, 64


def simulate(seed: int = 0) -> dict[str, Any]:
    """The data of `theoretical_validation.png`."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((GROUPS, SIZE))
    return {
        "seed": seed,
        "weights": weights.size,
        "distortion": [_distortion(text, weights) for text in FORMATS],
        "midtread": [_midtread(width, rng) for width in (0.5, 1.0, 1.5, 2.0, 3.0)],
        "damage": [_damage(bits, rng) for bits in BITS],
        "gradient": _gradients(rng),
    }


def _distortion(text: str, weights: np.ndarray) -> dict[str, Any]:
    error = float(np.square(rounded(weights, text) - weights).mean())
    return {"format": text, "monte_carlo": error,
            "integral": distortion.distortion(parse(text), SIZE)}  # fmt: skip


def _midtread(width: float, rng: np.random.Generator) -> dict[str, float]:
    w = rng.standard_normal(1_000_000)
    error = np.round(w / width) * width - w
    return {
        "width": width,
        "monte_carlo": float(np.square(error).mean()),
        "series": rounding.midtread_variance(width, 1.0),
        "uniform": rounding.uniform_variance(width),
    }


def _damage(bits: int, rng: np.random.Generator) -> dict[str, float]:
    """Mean and spread of the damage under a quadratic loss, near its optimum."""
    n = 400
    curvature, gradient = rng.uniform(0.5, 2.0, n), 0.05 * rng.standard_normal(n)
    width = rounding.step(3.0, bits)
    variance = np.full(n, rounding.uniform_variance(width))
    e = rng.uniform(-width / 2, width / 2, (20_000, n))
    lost = e @ gradient + 0.5 * np.square(e) @ curvature
    # A uniform error's fourth moment is 9/5 of its variance squared, a Gaussian's three times it.
    spread = damage.damage_variance(gradient, variance) + 0.2 * float(
        np.sum((curvature * variance) ** 2)
    )
    return {
        "bits": bits,
        "mean": float(lost.mean()),
        "expected": damage.expected_damage(curvature, variance),
        "sd": float(lost.std()),
        "expected_sd": float(np.sqrt(spread)),
    }


def _gradients(rng: np.random.Generator) -> list[dict[str, float]]:
    """The gradient variance that frozen and fresh errors add, as shares of the batches' own.

    The model is a linear regression at its true weights: a batch's Hessian is X'X / B and its
    gradient X'r / B, so both are drawn with the batch. The size of the residuals is chosen so that
    three bits add about as much as in small language models. The decrease with more bits, and the
    larger effect of fresh noise, are results.
    """
    n, steps, batch, bases = 60, 2_000, 64, 24
    curvature = 1 / np.arange(1, n + 1)  # a few steep directions, as in models
    inputs = rng.standard_normal((steps, batch, n)) * np.sqrt(curvature)
    residuals = 2 * rng.standard_normal((steps, batch, 1))
    gradients = _gradient(inputs, residuals)
    own = float(gradients.var(0).sum())
    # For Gaussian inputs, E (H_t - H)^2 = (H^2 + H tr H) / B, here on the diagonal.
    spread = (curvature**2 + curvature * curvature.sum()) / batch
    rows = []
    for bits in BITS:
        width = rounding.step(3.0, bits)
        frozen = rng.uniform(-width / 2, width / 2, (n, bases))
        fresh = rng.uniform(-width / 2, width / 2, (steps, n, 1))
        added = rounding.uniform_variance(width) * float(spread.sum()) / own
        new = damage.fresh_noise_variance(np.diag(curvature), np.full(n, width**2 / 12))
        rows.append({
            "bits": bits,
            "frozen": _added(gradients, _gradient(inputs, inputs @ frozen)) / own,
            "frozen_expected": added,
            "fresh": _added(gradients, _gradient(inputs, inputs @ fresh)) / own,
            "fresh_expected": added + float(np.trace(new)) / own,
        })  # fmt: skip
    return rows


def _gradient(inputs: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Gradients of half the squared error, from output errors: (steps, weights, columns)."""
    return np.asarray(inputs.transpose(0, 2, 1) @ residuals / inputs.shape[1])


def _added(gradients: np.ndarray, shifts: np.ndarray) -> float:
    """The increase of the variance over steps, as a mean over columns.

    Every error is used with both signs, since errors are symmetric: with one sign alone, the first
    order dominates the result.
    """
    spreads = [(gradients + sign * shifts).var(0).sum(0).mean() for sign in (1, -1)]
    return float(np.mean(spreads) - gradients.var(0).sum(0).mean())
