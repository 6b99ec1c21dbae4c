"""Execution settings: device, threads and memory, which do not change what a run is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lowbit.core.errors import Bounds, check_bounds
from lowbit.core.schedules import STRICT

ONEDNN = " (oneDNN)"
"""The suffix of the recorded fact `simd` if oneDNN, not MKL, multiplied fp32 matrices."""


@dataclass(frozen=True)
class Execution:
    """How a run is carried out. These settings are never part of a run's fingerprint.

    residency      "decoded" keeps decoded copies of the weights: more memory, the same results
    checkpointing  recomputes activations in the backward pass: less memory, a third more time
    sparing        returns freed memory to the system at once: less memory again, and slower
    compile        fuses small operations if the machine has a compiler
    decoder        the library whose kernel decodes nf4 matrices
    measured       the type that `compute = "auto"` stands for, measured once per command
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int = 0
    residency: Literal["packed", "decoded"] = "packed"
    checkpointing: bool = False
    sparing: bool = False
    compile: bool = False
    decoder: Literal["own", "bitsandbytes"] = "own"
    measured: Literal["", "fp32", "bf16"] = ""

    def __post_init__(self) -> None:
        check_bounds("execution", self, {"threads": Bounds(0)})
