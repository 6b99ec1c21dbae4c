"""A candidate runs in a copy of its own, watched and bounded from outside.

Outside means: a process of ours looks at the clock, the memory, the number of processes, the size
of the folder and of what is printed, and kills the whole group when one is too much. `jail` takes
files and network away, as far as the system can; how far is in the outcome's `level`.
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
# What an interpreter with torch needs to read; never a person's own folders.
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
    """What was taken away, and by what means."""

    files: str = "none"
    network: str = "none"
    processes: str = "group"

    @property
    def sealed(self) -> bool:
        """Whether a keep may be called a keep: no file and no network but what was given."""
        return self.files != "none" and self.network in ("namespace", "seatbelt")


@dataclass(frozen=True)
class SandboxOutcome:
    """How a run ended. `output` is what it printed, cut to the limit; it proves nothing."""

    end: End
    code: int
    seconds: float
    peak: int
    output: str
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
    """Run a program in `folder`, which it may write to; nothing else but `readable` is there.

    `devices`: patterns of a GPU's own files, which it may use too, or `iokit` on macOS.
    """
    folder = folder.resolve()
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    spec = _spec(program, folder, limits, readable, environment or {}, isolate, write_end, devices)
    # What it prints goes to a file without a name: nothing that it could put something else for.
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-I", str(JAIL), json.dumps(spec)],
            stdout=printed,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=(write_end,),
            env={},
            cwd=folder,
        )
        os.close(write_end)
        try:
            end, seconds, peak = watch(process, folder, printed, limits, clock, wait, cancelled)
        except BaseException:
            kill(process)
            raise
        level = _level(read_end, isolate)
        if end == "done" and process.returncode:
            end = "failed"
        printed.seek(0)
        text = printed.read(limits.output).decode("utf-8", "replace")
    return SandboxOutcome(end, process.returncode, seconds, peak, text, level)


def available() -> Level:
    """What this system can take away from a candidate."""
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
    """What the jail said that it could take away, before it became the program."""
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.readline()
    if not isolate or not text:
        return Level()
    applied = json.loads(text)
    apart, closed = applied["namespaces"], applied["landlock"]
    if applied["seatbelt"]:
        return Level(files="seatbelt", network="seatbelt")
    network = "none"
    if "network" in apart:
        network = "namespace" if applied["local"] else "namespace, but local sockets"
    elif "network" in closed:
        network = "tcp only"
    return Level(
        files="landlock" if "files" in closed else "none",
        network=network,
        processes="namespace" if "processes" in apart else "group",
    )
