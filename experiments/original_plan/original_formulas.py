"""The formulas of the original plan, unchanged, each with a note of its error.

They are here to be compared with data. No plan is made with them.
"""

from __future__ import annotations

from math import log2, sqrt


def loss_bound(rank: int, examples: int, bits: float, sigma: float, C: float = 1.0) -> float:
    """(D1) sqrt(r) / sqrt(N) + C r 4^-b sigma_g^2.

    The first term is a generalisation bound and cancels in a paired comparison; the second grows
    with r only if the adapter itself is quantised (damage.unreachable).
    """
    return sqrt(rank) / sqrt(examples) + C * rank * 4.0**-bits * sigma**2


def bits_rule(rank: int, examples: int, sigma: float = 1.0, C: float = 0.0) -> float:
    """(D2) b >= 1/2 log2 r + 1/2 log2 N + 1/2 log2 sigma_g^2 + C.

    Balancing the two terms of (D1) gives quarters instead (`balanced_bits`), and the right rule
    has rank with a minus (damage.bits_needed).
    """
    return 0.5 * log2(rank) + 0.5 * log2(examples) + 0.5 * log2(sigma**2) + C


def balanced_bits(rank: int, examples: int, sigma: float = 1.0, C: float = 1.0) -> float:
    """(D2') Where (D1)'s terms are equal: 1/4 log2 r + 1/4 log2 N + 1/2 log2(C sigma^2)."""
    return 0.25 * log2(rank) + 0.25 * log2(examples) + 0.5 * log2(C * sigma**2)


def gradient_variance_bound(
    variance: float, rank: int, bits: float, reach: float, x: float, smooth: float = 1.0
) -> float:
    """(D3) Var + L^2 |x|^2 r 4^-b R^2. The factor 4^-b is right; the rank does not belong in it."""
    return variance + smooth**2 * x**2 * rank * 4.0**-bits * reach**2


def gap_law(bits: float, C: float) -> float:
    """(D4) C 2^(-2b), with one C for all bits: wrong by more than 10 % below 6 bits."""
    return C * 4.0**-bits


GUIDELINES = ((8, "8-bit", 0.05), (16, "8-bit", 0.10), (10**9, "16-bit", 0.0))
"""(D5) Up to a rank, a precision and its largest degradation. Claims to test, not advice."""
