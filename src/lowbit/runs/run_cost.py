"""The result of a dry run. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunCost:
    """Stored bytes, peak memory and predicted time of one run."""

    stored: int
    share: float
    steps: int
    step_s: float
    peak_bytes: int
    weights_bytes: int
    """Part of the peak: the stored model, counted exactly."""
    trained_bytes: int
    """Part of the peak: adapters and heads, with gradients and optimiser moments."""
    data_bytes: int
    """The tokenised data, which is not part of the peak."""
    tokens_per_s: float
    total_s: float
    cpu_s: float
    gpu_s: float
    compute: str
    device: str
