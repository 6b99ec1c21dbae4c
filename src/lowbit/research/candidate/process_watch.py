"""Watches a running process and kills it with all its children if it exceeds a limit.

It polls every 50 ms from outside, because the program could remove limits that it sets itself. The
price is that a program can exceed a limit for a moment before the next poll.
"""

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
    """Limits of a run, for all of its processes together."""

    seconds: float
    """Wall-clock time, start-up included."""
    memory: int = 8 * 2**30
    """Bytes of resident memory."""
    processes: int = 64
    disk: int = 2 * 2**30
    """Bytes of files."""
    output: int = 2**20
    """Bytes of printed text."""


def watch(
    process: subprocess.Popen[bytes],
    folder: Path,
    output: IO[bytes],
    limits: Limits,
    clock: Clock,
    wait: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> tuple[End, float, int]:
    """Wait until the process ends or exceeds a limit.

    Returns:
        (how it ended, seconds, most memory in bytes).
    """
    start, peak, polls = clock(), 0, 0
    end: End | None
    while True:
        if process.poll() is not None:
            kill(process)
            # It may have printed too much and ended between two looks.
            end = "output" if _printed_too_much(output, limits) else "done"
            return end, clock() - start, peak
        family = _family(process.pid)
        memory = sum(_resident(member) for member in family)
        peak, polls = max(peak, memory), polls + 1
        end = _limit_hit(limits, clock() - start, memory, len(family), output)
        if end is None and polls % 10 == 1:
            end = "disk" if _size(folder) + _unlinked_size(family) > limits.disk else None
        if end is None and cancelled():
            end = "cancelled"
        if end is not None:
            kill(process)
            return end, clock() - start, peak
        wait(0.05)


def _limit_hit(
    limits: Limits, seconds: float, memory: int, processes: int, output: IO[bytes]
) -> End | None:
    if seconds > limits.seconds:
        return "timeout"
    if memory > limits.memory:
        return "memory"
    if processes > limits.processes:
        return "processes"
    return "output" if _printed_too_much(output, limits) else None


def _printed_too_much(output: IO[bytes], limits: Limits) -> bool:
    return os.fstat(output.fileno()).st_size > limits.output


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


def _unlinked_size(family: Sequence[psutil.Process]) -> int:
    """Bytes of deleted files that a process still has open or mapped, as /proc on Linux shows."""
    sizes: dict[tuple[int, int], int] = {}
    for place in (Path(f"/proc/{member.pid}") for member in family):
        # Descriptors and processes may disappear meanwhile; the others still count.
        with suppress(OSError):
            for name in os.listdir(place / "fd"):
                with suppress(OSError):
                    status = os.stat(place / "fd" / name)
                    if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                        sizes[status.st_dev, status.st_ino] = status.st_size
        with suppress(OSError):
            for line in (place / "maps").read_text(errors="replace").splitlines():
                if line.endswith(" (deleted)"):
                    key, size = _mapping(line)
                    sizes[key] = max(sizes.get(key, 0), size)
    return sum(sizes.values())


def _mapping(line: str) -> tuple[tuple[int, int], int]:
    """((device, inode), number of mapped bytes) of a line of /proc/PID/maps."""
    span, _, _, device, inode, *_ = line.split()
    first, last = (int(part, 16) for part in span.split("-"))
    major, minor = (int(part, 16) for part in device.split(":"))
    return (os.makedev(major, minor), int(inode)), last - first


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group, and children that left the group, with SIGKILL."""
    family = _family(process.pid)
    for send_kill in (lambda: os.killpg(process.pid, signal.SIGKILL), process.kill):
        try:
            send_kill()
        except (ProcessLookupError, PermissionError):
            continue
    for member in family:
        try:
            member.kill()
        except psutil.Error:
            continue
    process.wait()
    psutil.wait_procs(family, timeout=5)
