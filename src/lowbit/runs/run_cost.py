"""What a dry run measures, as plain data. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunCost:
    """Bytes, memory and time of one run, before it is run."""

    stored: int
    share: float
    steps: int
    step_s: float
    peak_bytes: int
    weights_bytes: int
    """Part of the peak: the stored model, exactly as counted."""
    trained_bytes: int
    """Part of the peak: adapters and heads with their gradients and moments."""
    data_bytes: int
    """Not in the peak: the tokenised data."""
    tokens_per_s: float
    total_s: float
    cpu_s: float
    gpu_s: float
    compute: str
    device: str
