"""The noise model against random numbers: each law beside a Monte Carlo of it. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowbit.quant.formats import levels_of, parse
from lowbit.theory import damage, distortion, noise

FORMATS = ("int8@64", "int6@64", "int5@64", "int4@64", "nf4@64", "int3@64", "int2@64", "ternary@64")
GROUPS, SIZE = 20_000, 64


def simulate(seed: int = 0) -> dict[str, Any]:
    """Everything that `theoretical_validation.png` draws."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((GROUPS, SIZE))
    return {
        "seed": seed,
        "weights": weights.size,
        "distortion": [_distortion(text, weights) for text in FORMATS],
        "midtread": [_midtread(width, rng) for width in (0.5, 1.0, 1.5, 2.0, 3.0)],
        "damage": [_damage(bits, rng) for bits in (3, 4, 5, 6, 8)],
        "gradient": [_gradient(bits, rng) for bits in (3, 4, 5, 6, 8)],
    }


def rounded(weights: np.ndarray, text: str) -> np.ndarray:
    """Each row as one group; the scale kept exactly."""
    spec = parse(text)
    levels = np.array(levels_of(spec))
    if spec.scale == "absmean":
        scale = np.abs(weights).mean(1, keepdims=True)
    else:
        scale = np.abs(weights).max(1, keepdims=True) / np.abs(levels).max()
    middles = (levels[1:] + levels[:-1]) / 2
    return np.asarray(levels[np.searchsorted(middles, weights / scale)] * scale)


def _distortion(text: str, weights: np.ndarray) -> dict[str, Any]:
    found = float(np.square(rounded(weights, text) - weights).mean())
    return {"format": text, "monte_carlo": found,
            "integral": distortion.distortion(parse(text), SIZE)}  # fmt: skip


def _midtread(width: float, rng: np.random.Generator) -> dict[str, float]:
    w = rng.standard_normal(1_000_000)
    error = np.round(w / width) * width - w
    return {
        "width": width,
        "monte_carlo": float(np.square(error).mean()),
        "series": noise.midtread_variance(width, 1.0),
        "uniform": noise.uniform_variance(width),
    }


def _damage(bits: int, rng: np.random.Generator) -> dict[str, float]:
    """A quadratic loss around its optimum's neighbourhood: mean and spread of the damage."""
    n = 400
    curvature, gradient = rng.uniform(0.5, 2.0, n), 0.05 * rng.standard_normal(n)
    width = noise.step(3.0, bits)
    variance = np.full(n, noise.uniform_variance(width))
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


def _gradient(bits: int, rng: np.random.Generator) -> dict[str, float]:
    """A frozen error shifts the gradient and adds no variance; a fresh one adds H S H."""
    n, steps = 60, 4_000
    root = rng.standard_normal((n, n)) / np.sqrt(n)
    hessian, width = root @ root.T, noise.step(3.0, bits)
    batch = rng.standard_normal((steps, n))
    frozen = rng.uniform(-width / 2, width / 2, n)
    fresh = rng.uniform(-width / 2, width / 2, (steps, n))
    own = float(batch.var(0).sum())
    expected = damage.fresh_noise_variance(hessian, np.full(n, noise.uniform_variance(width)))
    return {
        "bits": bits,
        "frozen": float((batch + hessian @ frozen).var(0).sum()) / own,
        "fresh": (float((batch + fresh @ hessian).var(0).sum()) - own),
        "expected": float(np.trace(expected)),
    }
