"""A running candidate, looked at from outside; killed with all its children if need be."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import psutil

End = Literal["done", "failed", "timeout", "memory", "processes", "disk", "output", "cancelled"]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Limits:
    """`seconds` of everything, start-up included; bytes of memory, of files, of printed text."""

    seconds: float
    memory: int = 8 * 2**30
    processes: int = 64
    disk: int = 2 * 2**30
    output: int = 2**20


def watch(
    process: subprocess.Popen[bytes],
    folder: Path,
    printed: IO[bytes],
    limits: Limits,
    clock: Clock,
    wait: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> tuple[End, float, int]:
    """Until it ends, or until something is too much."""
    began, peak, looks = clock(), 0, 0
    while True:
        if process.poll() is not None:
            kill(process)
            return "done", clock() - began, peak
        family = _family(process.pid)
        held = sum(_resident(member) for member in family)
        peak, looks = max(peak, held), looks + 1
        end = _too_much(limits, clock() - began, held, len(family), printed)
        if end is None and looks % 10 == 1:
            end = "disk" if _size(folder) + _nameless(family) > limits.disk else None
        if end is None and cancelled():
            end = "cancelled"
        if end is not None:
            kill(process)
            return end, clock() - began, peak
        wait(0.05)


def _too_much(
    limits: Limits, seconds: float, held: int, processes: int, printed: IO[bytes]
) -> End | None:
    if seconds > limits.seconds:
        return "timeout"
    if held > limits.memory:
        return "memory"
    if processes > limits.processes:
        return "processes"
    return "output" if os.fstat(printed.fileno()).st_size > limits.output else None


def _family(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _size(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return total


def _nameless(family: Sequence[psutil.Process]) -> int:
    """Bytes of files that lost their name while somebody has them open or mapped; Linux says so."""
    sizes: dict[tuple[int, int], int] = {}
    for place in (Path(f"/proc/{member.pid}") for member in family):
        # Descriptors and processes may go while they are looked at: what is left still counts.
        with suppress(OSError):
            for name in os.listdir(place / "fd"):
                with suppress(OSError):
                    status = os.stat(place / "fd" / name)
                    if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                        sizes[status.st_dev, status.st_ino] = status.st_size
        with suppress(OSError):
            for line in (place / "maps").read_text(errors="replace").splitlines():
                if line.endswith(" (deleted)"):
                    key, size = _mapped(line)
                    sizes[key] = max(sizes.get(key, 0), size)
    return sum(sizes.values())


def _mapped(line: str) -> tuple[tuple[int, int], int]:
    """Whose file a line of `maps` is about, and how much of it is mapped there."""
    span, _, _, device, inode, *_ = line.split()
    first, last = (int(part, 16) for part in span.split("-"))
    major, minor = (int(part, 16) for part in device.split(":"))
    return (os.makedev(major, minor), int(inode)), last - first


def kill(process: subprocess.Popen[bytes]) -> None:
    """The whole group, and whoever left it: nobody is asked twice."""
    family = _family(process.pid)
    for strike in (lambda: os.killpg(process.pid, signal.SIGKILL), process.kill):
        try:
            strike()
        except (ProcessLookupError, PermissionError):
            continue
    for member in family:
        try:
            member.kill()
        except psutil.Error:
            continue
    process.wait()
    psutil.wait_procs(family, timeout=5)
