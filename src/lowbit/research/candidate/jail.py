"""Confines an untrusted program and runs it: python -I jail.py SPEC, where SPEC is JSON.

The script restricts its own process as far as the system allows. It then reports the restrictions
as JSON on a pipe and replaces itself with the program:

    files      Landlock: only the listed folders can be read or written
    network    a network namespace without interfaces, or else Landlock's block of TCP; seccomp
               also blocks Unix sockets, which a namespace does not
    memory     seccomp blocks memory that no process's size includes (memfd, shared memory); not
               with a GPU, whose driver may need it
    processes  a process namespace: killing its first process kills all others

On macOS a `sandbox-exec` profile blocks files and network. A restriction that is not possible is
missing from the report, so the caller decides what to do without it. The script uses only the
standard library and starts with -I, so files of the candidate cannot change it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys

SEATBELT = "/usr/bin/sandbox-exec"
CREATE, ADD, RESTRICT = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
ALL_FILES = (0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
READ = EXECUTE | READ_FILE | READ_DIR
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
NO_NEW_PRIVS, DEATH_SIGNAL, SECCOMP = 38, 1, 22


class Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("rows", ctypes.c_void_p))


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def namespaces() -> list[str]:
    """Move into new namespaces; returns the names of those that the system allows."""
    uid, gid = os.getuid(), os.getgid()
    for flags, names in (
        (NEWUSER | NEWNET | NEWPID | NEWIPC | NEWNS, ["network", "processes", "mounts"]),
        (NEWUSER | NEWNET, ["network"]),
    ):
        if libc().unshare(flags) == 0:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{uid} {uid} 1"),
                ("gid_map", f"{gid} {gid} 1"),
            ):
                try:
                    with open(f"/proc/self/{name}", "w") as file:
                        file.write(text)
                except OSError:
                    return []
            return names
    return []


def own_mounts() -> list[str]:
    """Mount a private /proc and /dev/shm; returns the new writable folders."""
    private = (1 << 18) | (1 << 14)
    if libc().mount(b"none", b"/", None, private, None):
        return []
    libc().mount(b"proc", b"/proc", b"proc", 0, None)
    shared = libc().mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=1g") == 0
    return ["/dev/shm"] if shared else []


def landlock(readable: list[str], writable: list[str]) -> list[str]:
    """Allow only these folders and block TCP; returns what the kernel supports of the two."""
    system = libc()
    version = system.syscall(CREATE, None, 0, 1)
    if version < 1:
        return []
    handled = ALL_FILES[min(version, len(ALL_FILES) - 1)]
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0
    rules = Ruleset(handled, network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = system.syscall(CREATE, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return []
    for paths, allowed in ((readable, READ), (writable, handled)):
        for path in paths:
            _allow(system, ruleset, path, allowed & handled)
    if system.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or system.syscall(RESTRICT, ruleset, 0):
        return []
    os.close(ruleset)
    return ["files", "network"] if network else ["files"]


def _allow(system: ctypes.CDLL, rules: int, path: str, allowed: int) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        allowed &= EXECUTE | WRITE_FILE | READ_FILE | (1 << 14) | (1 << 15)
    system.syscall(ADD, rules, 1, ctypes.byref(PathBeneath(allowed, folder)), 0)
    os.close(folder)


# Machine -> (audit architecture, number of `socket`, calls that allocate hidden memory).
CALLS = {
    "x86_64": (0xC000003E, 41, {"memfd_create": 319, "shmget": 29}),
    "aarch64": (0xC00000B7, 198, {"memfd_create": 279, "shmget": 194}),
}
IO_URING, MEMFD_SECRET = 425, 447


def block_system_calls(hidden_memory: bool) -> bool:
    """Block socket(AF_UNIX), io_uring and system calls of another architecture with seccomp.

    Socket pairs and pipes still work. `hidden_memory`: also allow memfd and shared memory, which
    the size of a process does not include. Returns whether the filter is active.
    """
    calls = CALLS.get(os.uname().machine)
    if calls is None:
        return False
    arch, socket, hiding = calls
    blocked = [IO_URING, *(() if hidden_memory else (MEMFD_SECRET, *hiding.values()))]
    load, equal, above, answer = 0x20, 0x15, 0x35, 0x06
    refuse, allow = 0x00050000 | 1, 0x7FFF0000
    n = len(blocked)
    # A jump gives the number of rows to skip; the last row but one refuses, the last row allows.
    code = (
        (load, 0, 0, 4),
        (equal, 0, n + 5, arch),
        (load, 0, 0, 0),
        (above, n + 3, 0, 0x40000000),
        *((equal, n + 2 - i, 0, number) for i, number in enumerate(blocked)),
        (equal, 0, 3, socket),
        (load, 0, 0, 16),
        (equal, 0, 1, 1),
        (answer, 0, 0, refuse),
        (answer, 0, 0, allow),
    )
    rows = b"".join(struct.pack("HBBI", *row) for row in code)
    buffer = ctypes.create_string_buffer(rows, len(rows))
    program = Filter(len(code), ctypes.addressof(buffer))
    if libc().prctl(NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return libc().prctl(SECCOMP, 2, ctypes.byref(program), 0, 0) == 0


def seatbelt(readable: list[str], writable: list[str], gpu: bool = False) -> str:
    """A profile for sandbox-exec that denies everything except what any program needs."""

    def under(paths: list[str]) -> str:
        return " ".join(f"(subpath {json.dumps(path)})" for path in paths)

    return "\n".join(
        (
            "(version 1)",
            "(deny default)",
            "(allow process-fork process-exec signal sysctl-read mach-lookup ipc-posix*)",
            "(allow file-read-metadata)",
            f"(allow file-read* file-map-executable {under([*readable, *writable])})",
            f"(allow file-write* {under(writable)})",
            *["(allow iokit-open iokit-get-properties)"] * gpu,
            "(deny network*)",
        )
    )


def limits(spec: dict) -> None:
    """Set the limits of a single process; `process_watch` limits all of them together."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (spec["file_bytes"], spec["file_bytes"]))


def main() -> None:
    spec = json.loads(sys.argv[1])
    os.setsid()
    linux = sys.platform.startswith("linux")
    if linux:
        libc().prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    spaces = namespaces() if spec["isolate"] and linux else []
    if "processes" in spaces:
        # This process stays outside the new namespace; its next child is the first one inside.
        child = os.fork()
        if child:
            _wait(child)
        libc().prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        spec["writable"] += own_mounts()
    os.chdir(spec["folder"])
    paths, program = (spec["readable"], spec["writable"]), spec["program"]
    locks = landlock(*paths) if spec["isolate"] and linux else []
    local = spec["isolate"] and linux and block_system_calls(spec["gpu"])
    has_profile = spec["isolate"] and sys.platform == "darwin" and os.access(SEATBELT, os.X_OK)
    if has_profile:
        program = [SEATBELT, "-p", seatbelt(*paths, spec["gpu"]), *program]
    limits(spec)
    level = {"namespaces": spaces, "landlock": locks, "local": local, "seatbelt": has_profile}
    line = json.dumps(level) + "\n"
    os.write(spec["report"], line.encode())
    os.close(spec["report"])
    os.execve(program[0], program, spec["environment"])


def _wait(child: int) -> None:
    """Wait for the child and end with its exit code or signal."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) != 9 else None
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
