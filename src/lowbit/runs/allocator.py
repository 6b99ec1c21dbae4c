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
_MOST = 2**25  # the largest that glibc takes for the latter


_mode = {"keeps": False}


def keep() -> None:
    """Keep freed memory for the next step."""
    _mode["keeps"] = True
    _set(trim=2**31 - 1, mmap=_MOST)


def spare() -> None:
    """Return freed memory at once: about half the peak memory, and steps a third slower."""
    _mode["keeps"] = False
    _set(trim=2**20, mmap=2**20)


@contextmanager
def sparing() -> Iterator[None]:
    """Return freed memory at once inside this context, then restore the policy."""
    kept_before = _mode["keeps"]
    spare()
    try:
        yield
    finally:
        if kept_before:
            keep()


def _set(trim: int, mmap: int) -> None:
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM, trim)
        library.mallopt(_MMAP, mmap)
        library.malloc_trim(0)
