"""Runs a program in its own folder, confined by `jail` and limited by `process_watch`.

This process watches time, memory, number of processes, size of the folder and size of the output,
and kills the program if one exceeds its limit. `jail` blocks files and network as far as the
system allows. No setup, container or root is needed; the price is that isolation depends on the
system, so each result has a `level` that says what was blocked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from lowbit.research.candidate.process_watch import Clock, End, Limits, kill, watch

JAIL = Path(__file__).with_name("jail.py")
# Folders that an interpreter with torch needs to read. No home folder is among them.
SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc",
    "/opt/intel",
    "/sys/devices",
    "/sys/fs/cgroup",
    "/proc",
)
MACOS = ("/System", "/Library", "/private/etc", "/private/var/db", "/opt/homebrew")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


@dataclass(frozen=True)
class Level:
    """What was blocked, and by which mechanism."""

    files: str = "none"
    network: str = "none"
    processes: str = "group"

    @property
    def sealed(self) -> bool:
        """Whether the program had no access to other files and no network."""
        return self.files != "none" and self.network in ("namespace", "seatbelt")


@dataclass(frozen=True)
class SandboxOutcome:
    """Result of a program in the sandbox."""

    end: End
    """"done", or why it was killed or failed."""
    code: int
    """Exit code."""
    seconds: float
    peak: int
    """Most memory at any time, in bytes."""
    output: str
    """Standard output and error, cut to the limit. It proves nothing: the program wrote it."""
    level: Level


def run(
    program: Sequence[str],
    folder: Path,
    limits: Limits,
    readable: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    isolate: bool = True,
    devices: Sequence[str] = (),
    clock: Clock = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
    cancelled: Callable[[], bool] = lambda: False,
) -> SandboxOutcome:
    """Run a program that can write to `folder` and read `readable` and the system's libraries.

    Args:
        program: Command line.
        folder: Working folder, which the program may write to.
        limits: Limits of all its processes together.
        readable: Further files and folders that it may read.
        environment: Variables in addition to a minimal environment.
        isolate: Whether to block files and network.
        devices: Patterns of GPU device files that it may use, or `iokit` on macOS.
        clock: For tests.
        wait: For tests.
        cancelled: Polled; the program is killed once it returns True.
    """
    folder = folder.resolve()
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    spec = _spec(program, folder, limits, readable, environment or {}, isolate, write_end, devices)
    # The output goes to a file without a name, so the program cannot replace it.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-I", str(JAIL), json.dumps(spec)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=(write_end,),
            env={},
            cwd=folder,
        )
        os.close(write_end)
        try:
            end, seconds, peak = watch(process, folder, output, limits, clock, wait, cancelled)
        except BaseException:
            kill(process)
            raise
        level = _level(read_end, isolate)
        if end == "done" and process.returncode:
            end = "failed"
        output.seek(0)
        text = output.read(limits.output).decode("utf-8", "replace")
    return SandboxOutcome(end, process.returncode, seconds, peak, text, level)


def available() -> Level:
    """The isolation that this system supports."""
    with tempfile.TemporaryDirectory(prefix="lowbit-isolation-") as folder:
        return run(["/usr/bin/env", "true"], Path(folder), Limits(30.0)).level


def _spec(
    program: Sequence[str],
    folder: Path,
    limits: Limits,
    readable: Sequence[Path],
    environment: Mapping[str, str],
    isolate: bool,
    report: int,
    devices: Sequence[str] = (),
) -> dict[str, object]:
    prefixes = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)}
    variables = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder / "tmp"),
        "TMPDIR": str(folder / "tmp"),
        "LC_ALL": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    return {
        "program": list(program),
        "folder": str(folder),
        "readable": [
            *SYSTEM,
            *MACOS,
            *sorted(prefixes),
            *(str(path.resolve()) for path in readable),
        ],
        "writable": [str(folder), *DEVICES, *sorted(n for each in devices for n in glob(each))],
        "gpu": bool(devices),
        "environment": variables,
        "file_bytes": limits.disk,
        "isolate": isolate,
        "report": report,
    }


def _level(read_end: int, isolate: bool) -> Level:
    """The isolation level, from the report that the jail wrote before it started the program."""
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.readline()
    if not isolate or not text:
        return Level()
    report = json.loads(text)
    spaces, locks = report["namespaces"], report["landlock"]
    if report["seatbelt"]:
        return Level(files="seatbelt", network="seatbelt")
    network = "none"
    if "network" in spaces:
        network = "namespace" if report["local"] else "namespace, but local sockets"
    elif "network" in locks:
        network = "tcp only"
    return Level(
        files="landlock" if "files" in locks else "none",
        network=network,
        processes="namespace" if "processes" in spaces else "group",
    )
