"""Two policies for freed memory in the C library, and when to use each.

A training step frees and allocates the same blocks repeatedly. If they go back to the system, it
clears about 20,000 pages each step, a sixth of the step's time; so the process keeps them.
Loading allocates large temporary blocks between small ones that stay. If the process keeps them,
they leave holes, and a model of 100 MB occupies 350; so they go back to the system at once.

This needs glibc. On other systems nothing changes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_MOST = 2**25  # the largest mmap threshold that glibc accepts


_mode = {"keeps_freed_memory": False}


def keep_freed_memory() -> None:
    """Keep freed memory for the next step."""
    _mode["keeps_freed_memory"] = True
    _set(trim=2**31 - 1, mmap=_MOST)


def return_freed_memory() -> None:
    """Return freed memory at once. This halves peak memory, about, and slows steps by a third."""
    _mode["keeps_freed_memory"] = False
    _set(trim=2**20, mmap=2**20)


@contextmanager
def returning_freed_memory() -> Iterator[None]:
    """Return freed memory at once inside this context, then restore the policy."""
    kept_freed_memory = _mode["keeps_freed_memory"]
    return_freed_memory()
    try:
        yield
    finally:
        if kept_freed_memory:
            keep_freed_memory()


def _set(trim: int, mmap: int) -> None:
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM, trim)
        library.mallopt(_MMAP, mmap)
        library.malloc_trim(0)
