"""The error of rounding one weight.

Levels are a step D apart, w is rounded to the nearest level, and e = w_q - w is the error. Rounding
is deterministic: "e is uniform on (-D/2, D/2)" is exact only with subtractive dither. For smooth
densities it holds up to terms that vanish like exp(-2 pi^2 s^2 / D^2).

The notebook and the simulation use this module.
"""

from __future__ import annotations

from math import exp, pi

import numpy as np

from lowbit.quant.formats import levels_of, parse

TERMS = 200
"""Terms of a series that falls like exp(-k^2): far more than any D needs."""


def step(largest: float, bits: int) -> float:
    """(1) D = M / q with q = 2^(b-1) - 1: a symmetric grid whose ends are +M and -M."""
    return largest / (2 ** (bits - 1) - 1)


def uniform_variance(width: float) -> float:
    """(2) D^2 / 12, the variance of an error uniform over one step."""
    return width**2 / 12


def stochastic_variance(width: float) -> float:
    """(3) D^2 / 6: rounding up or down at random, without bias, doubles the variance."""
    return width**2 / 6


def midtread_variance(width: float, sigma: float) -> float:
    """(4) E e^2 of Gaussian weights on an infinite grid with a level at zero (Sripad and Snyder).

    D^2/12 + (D^2/pi^2) sum_k (-1)^k / k^2 exp(-2 pi^2 k^2 s^2 / D^2).
    """
    series = sum((-1) ** k / k**2 * _decay(k, width, sigma) for k in range(1, TERMS))
    return uniform_variance(width) + width**2 / pi**2 * series


def midtread_covariance(width: float, sigma: float) -> float:
    """(5) E[w e] = 2 s^2 sum_k (-1)^k exp(-2 pi^2 k^2 s^2 / D^2): e depends on w."""
    return 2 * sigma**2 * sum((-1) ** k * _decay(k, width, sigma) for k in range(1, TERMS))


def _decay(k: int, width: float, sigma: float) -> float:
    return exp(-2 * (pi * k * sigma / width) ** 2)


def rounded(weights: np.ndarray, text: str) -> np.ndarray:
    """The weights rounded to a format, with one group per row and a scale that is not rounded."""
    spec = parse(text)
    levels = np.array(levels_of(spec))
    if spec.scale == "absmean":
        scale = np.abs(weights).mean(1, keepdims=True)
    else:
        scale = np.abs(weights).max(1, keepdims=True) / np.abs(levels).max()
    middles = (levels[1:] + levels[:-1]) / 2
    return np.asarray(levels[np.searchsorted(middles, weights / scale)] * scale)
