"""Decides whether a candidate is better: seed noise, paired tests, one alpha for the campaign.

Screening uses one seed and only decides whether to run a confirmation. A confirmation compares
candidate and incumbent on the same seeds and articles, with a bootstrap that resamples seeds and
articles together (`core.paired_tests.bootstrap`). A campaign that expects H confirmations gives
its k-th confirmation this error probability:

    alpha_k = alpha / 2 (1 / H  [k <= H]  +  6 / (pi k)^2),        sum over all k = alpha

So however long the loop runs, the probability that it keeps any edit without effect is at most
alpha. The price is power: a small real gain may not be kept. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from lowbit.core.paired_tests import Difference, Paired, bootstrap

Reason = Literal["better", "not better", "too few seeds"]
RESAMPLES = 4_000


@dataclass(frozen=True)
class Noise:
    """Standard deviation of a program's loss over seeds, and the number of seeds."""

    sd: float
    seeds: int

    @property
    def of_difference(self) -> float:
        """Standard deviation of the difference between two single runs."""
        return math.sqrt(2) * self.sd


@dataclass(frozen=True)
class Verdict:
    """Result of a confirmation: keep or not, the reason, and the alpha that it used."""

    keep: bool
    reason: Reason
    gain: Difference | None
    p: float | None
    alpha: float


def noise_of(losses: Sequence[float]) -> Noise:
    """Noise from the losses of one program on several seeds."""
    if len(losses) < 2:
        raise ValueError("noise needs at least two seeds")
    return Noise(float(np.std(losses, ddof=1)), len(losses))


def alpha_share(alpha: float, confirmation: int, horizon: int) -> float:
    """Share of the campaign's alpha for its k-th confirmation, counted from 1."""
    if confirmation < 1 or horizon < 1:
        raise ValueError("confirmation and horizon count from 1")
    planned = 1 / horizon if confirmation <= horizon else 0.0
    return alpha / 2 * (planned + 6 / (math.pi * confirmation) ** 2)


def alpha_spent(alpha: float, confirmations: int, horizon: int) -> float:
    """Sum of the shares of the first `confirmations` confirmations."""
    return sum(alpha_share(alpha, k, horizon) for k in range(1, confirmations + 1))


SAME_BITS = 1e-3
"""Two exports of one program may differ by this many bits a weight and count as equal."""
SLACK = 0.25
"""How much worse a screened candidate may be, as a share of the noise of a difference."""


def worth_confirming(candidate: float, incumbent: float, noise: Noise) -> bool:
    """Whether the screening loss is better, or worse by less than a quarter of the noise.

    The noise is that of a difference between two runs. Screening then rejects a true gain as large
    as this noise in one case of ten, and one twice as large in one of eighty. It saves the
    confirmation of two in five edits without effect.
    """
    return candidate - incumbent < SLACK * noise.of_difference


SPEED_RATIO = 1.25


def similar_speed(first: float, second: float) -> bool:
    """Whether the same work took a similar number of seconds twice.

    If not, the machine's speed has changed, and runs with a time budget cannot be compared.
    """
    short, long = sorted((first, second))
    return short <= 0 or long <= SPEED_RATIO * short


def no_gain(candidate: tuple[ArrayLike, ArrayLike], incumbent: tuple[ArrayLike, ArrayLike]) -> bool:
    """Whether the mean gain over the seeds so far is zero or less.

    Stopping a confirmation here cannot raise the error probability; it can only lose a keep.
    """
    ours, theirs = (
        tuple(np.asarray(array, float) for array in side) for side in (candidate, incumbent)
    )
    losses = [sums.sum(1) / counts.sum(1) for sums, counts in (ours, theirs)]
    return bool((losses[0] - losses[1]).mean() >= 0)


def confirm(
    candidate: tuple[ArrayLike, ArrayLike],
    incumbent: tuple[ArrayLike, ArrayLike],
    alpha: float,
    seed: int = 0,
) -> Verdict:
    """Test whether the candidate's loss is lower than the incumbent's.

    Args:
        candidate: (sums, counts), each of shape (seeds, articles).
        incumbent: The same, on the same seeds and articles.
        alpha: Error probability of this test.
        seed: Seed of the bootstrap.
    """
    if len(np.asarray(candidate[0])) < 2:
        return Verdict(False, "too few seeds", None, None, alpha)
    gain = compare(candidate, incumbent, seed)
    p = gain.p_above(0.0)
    better = p < alpha
    return Verdict(better, "better" if better else "not better", gain, p, alpha)


def compare(
    candidate: tuple[ArrayLike, ArrayLike], incumbent: tuple[ArrayLike, ArrayLike], seed: int = 0
) -> Difference:
    """Gain of the candidate over the incumbent, with the same bootstrap as `confirm`."""
    ours, theirs = (
        tuple(np.asarray(array, float) for array in side) for side in (candidate, incumbent)
    )
    pair = Paired(theirs[0], theirs[1], ours[0], ours[1])
    gain = bootstrap(pair, np.random.default_rng(seed), RESAMPLES)
    # A few seeds may agree by luck. The many articles must not raise the degrees of freedom then.
    return replace(gain, df=min(gain.df, max(1, ours[0].shape[0] - 1)))


def in_class(bits: float, incumbent: float, tolerance: float = 0.02) -> bool:
    """Whether a candidate has at most the incumbent's bits a weight, within the tolerance."""
    return bits <= incumbent * (1 + tolerance)


def on_front(bits: float, loss: float, keeps: Sequence[tuple[float, float]]) -> bool:
    """Whether (bits, loss) is on the Pareto front: no kept pair is as good or better in both."""
    return not any(b <= bits and other <= loss for b, other in keeps)
