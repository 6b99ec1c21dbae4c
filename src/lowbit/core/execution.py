"""How runs are carried out: what may differ between two runs of the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lowbit.core.errors import Bounds, check_bounds
from lowbit.core.schedules import STRICT

ONEDNN = " (oneDNN)"
"""How the fact `simd` ends where oneDNN multiplied fp32 matrices, and not MKL."""


@dataclass(frozen=True)
class Execution:
    """How a run is carried out, not what it is: never part of the fingerprint.

    `residency`: decoded copies are kept by those who have the memory; the bits are the same.
    `checkpointing` computes activations twice instead of keeping them: less memory, a third more
    time. `sparing` hands freed memory back to the system at once: less still, and slower again.
    `compile` fuses small operations, where a compiler is found. `decoder`: whose kernel
    decodes nf4 matrices. `measured`: what `compute = "auto"` was measured to mean, once a command.
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
