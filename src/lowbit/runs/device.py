"""Chooses device and compute type, and records the facts of this machine.

`auto` is resolved before a run starts and never recorded. The device is the first available one of
CUDA, MPS and CPU. The compute type is measured: a CPU without bf16 instructions multiplies bf16 ten
times slower than fp32, a CPU with them four times faster. `open_machine` resolves both once per
process; the code below it takes the `Machine` that it returns.
"""

from __future__ import annotations

import platform
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil
import torch

from lowbit import __version__
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.layers import matmul
from lowbit.quant import bitsandbytes
from lowbit.runs import allocator
from lowbit.runs.record import Facts

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
INT8 = "int8+"
"""Before the type of all other products, where frozen products are in int8."""


@dataclass(frozen=True)
class Machine:
    """Device, compute type and execution settings of a run, with every `auto` resolved."""

    device: torch.device
    compute: str
    execution: Execution
    memory: int | None = None
    """Bytes that this run may use if several run at once; None if it has the machine to itself."""

    @property
    def dtype(self) -> torch.dtype:
        return TYPES[self.compute.removeprefix(INT8)]

    @property
    def int8(self) -> bool:
        return self.compute.startswith(INT8)

    @property
    def free_memory(self) -> int:
        """Bytes that this run may use now."""
        return free_memory(self.device) if self.memory is None else self.memory


def open_machine(execution: Execution, compute: str, memory: int | None = None) -> Machine:
    """Apply the settings of threads and memory to this process; resolve device and compute type."""
    device = resolve_device(execution.device)
    if execution.threads:
        torch.set_num_threads(execution.threads)
    (allocator.return_freed_memory if execution.sparing else allocator.keep_freed_memory)()
    if execution.decoder == "bitsandbytes":
        bitsandbytes.library()  # raise now instead of in the first matrix multiplication
    return Machine(device, compute_of(execution, compute), execution, memory)


def cpu_machine(execution: Execution | None = None, compute: str = "fp32") -> Machine:
    """A `Machine` for the CPU that changes no setting of this process."""
    return Machine(torch.device("cpu"), compute, execution or Execution())


def available() -> list[str]:
    """The device types of this machine, the fastest first."""
    devices = ["cuda"] if torch.cuda.is_available() else []
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return [*devices, "cpu"]


def resolve_device(declared: str) -> torch.device:
    """The torch device; `auto` is the fastest one. Raises if this machine lacks the device."""
    if declared == "auto":
        return torch.device(available()[0])
    if declared not in available():
        raise UserError(f"this machine has no {declared}; it has {', '.join(available())}")
    return torch.device(declared)


def compute_of(execution: Execution, compute: str) -> str:
    """The compute type of a run on its device."""
    device = resolve_device(execution.device)
    if compute not in ("auto", "int8"):
        return resolve_compute(compute, device)
    resolved = resolve_compute(execution.measured or "auto", device)
    return INT8 + resolved if compute == "int8" else resolved


def resolve_compute(declared: str, device: torch.device) -> str:
    """The compute type; `auto` is the faster one by measurement. Raises if unsupported."""
    if declared == "auto":
        speeds = matmul_speeds(device)
        return max(speeds, key=lambda name: speeds[name])
    if not supports(declared, device):
        types = ", ".join(name for name in TYPES if supports(name, device))
        raise UserError(f"this {device.type} device cannot compute in {declared}; it has {types}")
    return declared


def supports(compute: str, device: torch.device) -> bool:
    """Whether a device can multiply matrices of a type; it tries one product."""
    if device.type == "cuda" and compute == "bf16" and not torch.cuda.is_bf16_supported(False):
        return False  # it would be emulated, slowly
    try:
        a = torch.ones(2, 2, dtype=TYPES[compute], device=device)
        return bool((a @ a).float().sum() == 8)
    except (RuntimeError, TypeError, AssertionError):
        return False  # torch raises AssertionError if it was built without this device


@lru_cache(maxsize=4)
def matmul_speeds(device: torch.device, size: int = 768, rounds: int = 7) -> dict[str, float]:
    """GFLOP/s of a square matrix product in each compute type."""
    return {
        name: _matmul_speed(device, dtype, size, rounds)
        for name, dtype in TYPES.items()
        if supports(name, device)
    }


_ENOUGH = 0.5
"""Seconds of measurement after which a speed is accurate enough."""


def _matmul_speed(device: torch.device, dtype: torch.dtype, size: int, rounds: int) -> float:
    a = torch.ones(size, size, dtype=dtype, device=device)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        matmul.linear(a, a)
        synchronise(device)
        seconds.append(time.perf_counter() - began)
        if len(seconds) > 1 and sum(seconds) > _ENOUGH:
            break  # slow, perhaps emulated: more rounds would not change the choice
    return 2 * size**3 / median(seconds[1:]) / 1e9


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def free_memory(device: torch.device) -> int:
    """Bytes of free memory on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


class PeakMemory:
    """Peak memory since `start`, above what the process held at `start`.

    `start` is called before the model is loaded, so the interpreter, its libraries and the
    tokenised data do not count. Linux can reset a process's high-water mark, which makes the figure
    exact; elsewhere it is the peak of the whole process. On CUDA it is the device's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.idle = 0

    def start(self) -> None:
        """Take the current memory as idle, and reset the peak."""
        if self.device.type == "cuda":
            self.idle = self.bytes_in_use()
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        self.idle = self.bytes_in_use()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def bytes_in_use(self) -> int:
        """Bytes in use now."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def peak(self) -> int:
        """Peak bytes in use since `start`, including idle bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        if status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        import resource  # Windows has none

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def facts(machine: Machine, data: str, weights: str, notes: tuple[str, ...]) -> Facts:
    """The facts of the machine and the libraries, for the record."""
    device, execution = machine.device, machine.execution
    return Facts(
        device=device_name(device),
        compute=machine.compute,
        threads=torch.get_num_threads(),
        residency=execution.residency,
        checkpointing=execution.checkpointing,
        compiled=execution.compile,
        decoder=execution.decoder,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version("transformers"),
        lowbit=__version__,
        cpu=cpu_name(),
        simd=matmul.simd_name() if device.type == "cpu" else "",
        cores=psutil.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
        data=data,
        weights=weights,
        notes=notes,
    )


def device_name(device: torch.device) -> str:
    """`cpu`, `mps`, or `cuda` with the GPU's name: runs on two kinds of GPU are not compared."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type


def cpu_name() -> str:
    """The CPU's model name, as the system reports it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
