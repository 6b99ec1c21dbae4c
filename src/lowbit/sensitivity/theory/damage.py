"""From an error of the weights to nats: what theory predicts before a run.

Notation: e = w_q - w is the error, g and H are the gradient and the Hessian of the expected loss at
the model's weights, S is the covariance of e. All sums run over weights. Values per matrix may be
summed over matrices, because the cross blocks of H vanish in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, sqrt

import numpy as np
from numpy.typing import ArrayLike


def expected_damage(curvature: ArrayLike, variance: ArrayLike) -> float:
    """(12) E dL = 1/2 tr(H S) for independent zero-mean noise: 1/2 sum H_ii S_ii."""
    return 0.5 * float(np.sum(np.asarray(curvature, float) * np.asarray(variance, float)))


def damage_bound(bits: float, kappa: float, curvature: ArrayLike, spread: ArrayLike) -> float:
    """(26) The main bound, E L_q - L <= C_b 4^-b with C_b = 1/2 kappa_b tr(H S_w), b >= 3.

    `kappa` is 4^b x the format's distortion (10), `spread` the weights' own variance S_w, by group
    or by matrix. It bounds the *mean* over independent, symmetric errors, up to O(16^-b).
    It does not bound a single error, whose g'e falls as 2^-b only.
    """
    return expected_damage(curvature, kappa * 4.0**-bits * np.asarray(spread, float))


def layer_damages(curvatures: Sequence[ArrayLike], variances: Sequence[ArrayLike]) -> list[float]:
    """(27) s_l = 1/2 sum H_ii E e_i^2 of every layer; the mean damage of all at once is their sum.

    So each layer's bits can be chosen from that layer's damage alone.
    """
    return [expected_damage(h, v) for h, v in zip(curvatures, variances, strict=True)]


def damage_variance(gradient: ArrayLike, variance: ArrayLike, curvature: ArrayLike = 0.0) -> float:
    """(13) Var dL = g'S g + 1/2 tr((H S)^2), for independent Gaussian noise and diagonal H.

    The first term falls as 4^-b and uses the *evaluation sample's* gradient; the second as 16^-b.
    """
    s = np.asarray(variance, float)
    first = np.sum(np.asarray(gradient, float) ** 2 * s)
    second = np.sum((np.asarray(curvature, float) * s) ** 2)
    return float(first + 0.5 * second)


def damage_at(bits: float, at: float, damage: float) -> float:
    """(14) The mean damage at other bits if 4^-b held: one bit is worth a factor of four.

    It holds only between large b; `distortion.kappa` gives the deviation elsewhere.
    """
    return damage * 4.0 ** (at - bits)


def crossover(gradient: ArrayLike, curvature: ArrayLike, variance: ArrayLike, bits: float) -> float:
    """(15) The bits from which the first-order term's spread exceeds the mean damage.

    The mean 1/2 tr(H S) falls as 4^-b, the spread sqrt(g'S g) as 2^-b. They are equal at
    bits + log2(mean / spread), with both taken at `bits`.
    """
    mean = expected_damage(curvature, variance)
    spread = sqrt(damage_variance(gradient, variance))
    if mean <= 0:
        return -np.inf
    return bits + log2(mean / spread) if spread > 0 else np.inf


def adapter_parameters(shapes: Sequence[tuple[int, int]], rank: int) -> int:
    """(16) p_eff = sum r (m + n - r): the free parameters of rank-r matrices."""
    return sum(min(rank, *shape) * (sum(shape) - min(rank, *shape)) for shape in shapes)


def bits_needed(
    half_trace: float, kappa: float, examples: int, parameters: int, share: float = 1.0
) -> float:
    """(17) The least b with damage at most `share` of the statistical term p_eff / (2 N).

    b >= 1/2 log2[kappa N tr(H S_w) / (share p_eff)], with `half_trace` = 1/2 tr(H S_w). A larger
    rank makes p_eff larger, so it enters with *minus* 1/2 log2 r: it needs fewer bits, not more.
    """
    return 0.5 * log2(kappa * examples * 2 * half_trace / (share * parameters))


def unreachable(gradient: np.ndarray, hessian: np.ndarray, tangent: np.ndarray,
                error: np.ndarray) -> float:  # fmt: skip
    """(18) The damage that remains after the adapter's best correction:

    g'e + 1/2 e'(H - H T (T'HT)^-1 T'H) e for the tangent space T of the adapter, with T'g = 0. For
    nested tangent spaces a larger rank leaves less damage: a frozen base adds no + r 2^(-2b).
    """
    reached = hessian @ tangent
    projected = reached @ np.linalg.solve(tangent.T @ reached, reached.T)
    return float(gradient @ error + 0.5 * error @ (hessian - projected) @ error)


def residual_share(singular: ArrayLike, rank: int) -> float:
    """(19) Eckart-Young: the share of 1/2 sum sigma_i^2 that no rank-k correction removes."""
    squares = np.sort(np.asarray(singular, float) ** 2)[::-1]
    total = squares.sum()
    return float(squares[rank:].sum() / total) if total > 0 else 0.0


def gradient_bias(hessian: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(20) A frozen base shifts the mean gradient by H e: an offset, the same at every step.

    A batch's own gradient is shifted by its own H_t e, which differs between batches: see (28).
    """
    return np.asarray(hessian @ error)


def fresh_noise_variance(hessian: np.ndarray, variance: ArrayLike) -> np.ndarray:
    """(21) Noise drawn anew at every step adds H S H to the gradient's covariance.

    Like any error it also adds (28), because the Hessians of batches differ.
    """
    return np.asarray(hessian @ np.diag(np.asarray(variance, float)) @ hessian)


def frozen_noise_variance(hessians: np.ndarray, variance: ArrayLike) -> float:
    """(28) tr(E (H_t - H)^2 S): what a frozen base adds to the gradient's variance, summed.

    `hessians`: batches x n x n. The mean over frozen errors, whose sign makes the first order,
    2 tr Cov(g_t, H_t e), vanish. It is zero if all batches have the same Hessian.
    """
    deviations = hessians - hessians.mean(0)
    return float(np.square(deviations).sum(1).mean(0) @ np.asarray(variance, float))


def noise_ratio(bits: int, other: int) -> float:
    """(22) The ratio of (21) at `bits` to (21) at `other`: ((2^(b'-1)-1) / (2^(b-1)-1))^2."""
    return ((2 ** (other - 1) - 1) / (2 ** (bits - 1) - 1)) ** 2


def converse(eigenvalues: ArrayLike, bits: float, weights: ArrayLike = 1.0) -> float:
    """(23) The least 1/2 E e'H e of any code with `bits` bits per weight, for Gaussian weights.

    Reverse water-filling over lambda = eig(S_w^1/2 H S_w^1/2): 1/2 sum min(theta, lambda) with
    sum 1/2 log2+(lambda / theta) = n b. `weights`: the multiplicity of each eigenvalue.
    """
    values = np.asarray(eigenvalues, float)
    times = np.broadcast_to(np.asarray(weights, float), values.shape)
    total_bits = bits * float(times.sum())
    order = np.argsort(values)[::-1]
    values, times = values[order], times[order]
    values, times = values[values > 0], times[values > 0]
    if not len(values):
        return 0.0
    # With the k largest above the water: 1/2 (sum of their logs - k log theta) = total_bits.
    counts = np.cumsum(times)
    levels = (np.cumsum(times * np.log2(values)) - 2 * total_bits) / counts
    above = np.flatnonzero(np.log2(values) > levels)
    theta = 2.0 ** levels[above[-1] if len(above) else 0]
    return 0.5 * float((times * np.minimum(theta, values)).sum())


def means_ratio(eigenvalues: ArrayLike) -> float:
    """(24) AM / GM of the eigenvalues: the loss of rounding all directions alike."""
    values = np.asarray(eigenvalues, float)
    values = values[values > 0]
    return float(values.mean() / np.exp(np.log(values).mean()))


def tokens_to_resolve(gap: float, share: float = 0.05) -> float:
    """(25) Tokens for a standard error of `share` times the gap, with SE^2 about 2 gap / tokens."""
    return 2 / (share**2 * gap)
