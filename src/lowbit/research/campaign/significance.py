"""Whether a change is better: noise first, paired seeds, and one alpha for the whole campaign.

Screening is one seed: it only says whether confirming is worth the time. A confirmation compares
candidate and incumbent over the same seeds and articles; seeds and articles are resampled
together (`core.paired_tests.bootstrap`). A campaign that expects H confirmations lets its k-th err
with probability

    alpha_k = alpha / 2 (1 / H  [k <= H]  +  6 / (pi k)^2),        sum over all k = alpha

so that however long the loop runs, a change that is nothing is kept at all with probability at most
alpha. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from lowbit.core.paired_tests import Difference, Paired, bootstrap

Reason = Literal["better", "not better", "another bit class", "too few seeds"]
RESAMPLES = 4_000


@dataclass(frozen=True)
class Noise:
    """What another seed alone does: standard deviation of a program's loss over seeds."""

    sd: float
    seeds: int

    @property
    def of_difference(self) -> float:
        """Of two single runs."""
        return math.sqrt(2) * self.sd


@dataclass(frozen=True)
class Verdict:
    """Of a confirmation: kept or not, why, and what was spent on saying so."""

    keep: bool
    reason: Reason
    gain: Difference | None
    p: float | None
    alpha: float


def noise_of(losses: Sequence[float]) -> Noise:
    """From the same program on several seeds."""
    if len(losses) < 2:
        raise ValueError("noise needs two seeds at least")
    return Noise(float(np.std(losses, ddof=1)), len(losses))


def alpha_share(alpha: float, confirmation: int, horizon: int) -> float:
    """Of the campaign's alpha, for its k-th confirmation, counted from 1."""
    if confirmation < 1 or horizon < 1:
        raise ValueError("confirmations are counted from 1")
    planned = 1 / horizon if confirmation <= horizon else 0.0
    return alpha / 2 * (planned + 6 / (math.pi * confirmation) ** 2)


def alpha_spent(alpha: float, confirmations: int, horizon: int) -> float:
    return sum(alpha_share(alpha, k, horizon) for k in range(1, confirmations + 1))


SAME_BITS = 1e-3
"""Bits a weight within which two exports of one program are equal."""
SLACK = 0.25


def worth_confirming(candidate: float, incumbent: float, noise: Noise) -> bool:
    """Whether one seed looks better, or worse by less than a quarter of a difference's noise.

    A true gain as large as the noise is then missed by one screening in ten, and one twice as large
    by one in eighty; two in five changes of nothing are spared a confirmation.
    """
    return candidate - incumbent < SLACK * noise.of_difference


APART = 1.25


def similar_speed(seconds: float, others: float) -> bool:
    """Whether the same work took two runs about as long: their clocks are worth the same."""
    short, long = sorted((seconds, others))
    return short <= 0 or long <= APART * short


def no_gain(candidate: tuple[ArrayLike, ArrayLike], incumbent: tuple[ArrayLike, ArrayLike]) -> bool:
    """Whether the seeds so far show no gain at all. Stopping then can only lose keeps."""
    (sums, counts), (others, among) = (
        tuple(np.asarray(a, float) for a in side) for side in (candidate, incumbent)
    )
    return bool((sums.sum(1) / counts.sum(1) - others.sum(1) / among.sum(1)).mean() >= 0)


def confirm(
    candidate: tuple[ArrayLike, ArrayLike],
    incumbent: tuple[ArrayLike, ArrayLike],
    alpha: float,
    seed: int = 0,
) -> Verdict:
    """(sums, counts), each (seeds, articles), of both; better is a lower loss."""
    if len(np.asarray(candidate[0])) < 2:
        return Verdict(False, "too few seeds", None, None, alpha)
    gain = compare(candidate, incumbent, seed)
    p = gain.p_above(0.0)
    better = p < alpha
    return Verdict(better, "better" if better else "not better", gain, p, alpha)


def compare(
    candidate: tuple[ArrayLike, ArrayLike], incumbent: tuple[ArrayLike, ArrayLike], seed: int = 0
) -> Difference:
    """Gain of one over the other, with seeds and articles resampled together, as for a keep."""
    ours, theirs = (tuple(np.asarray(a, float) for a in side) for side in (candidate, incumbent))
    pair = Paired(theirs[0], theirs[1], ours[0], ours[1])
    gain = bootstrap(pair, np.random.default_rng(seed), RESAMPLES)
    # Few seeds agree by luck, and the articles' many degrees of freedom would then vouch for them.
    return replace(gain, df=min(gain.df, max(1, ours[0].shape[0] - 1)))


def in_class(bits: float, incumbent: float, tolerance: float = 0.02) -> bool:
    """Whether a candidate's effective bits are those of the incumbent, or fewer."""
    return bits <= incumbent * (1 + tolerance)


def on_front(bits: float, loss: float, keeps: Sequence[tuple[float, float]]) -> bool:
    """Whether no kept (bits, loss) is at least as good in both."""
    return not any(b <= bits and other <= loss for b, other in keeps)
