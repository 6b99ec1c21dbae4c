"""Two ways for the C library to treat memory that is freed, and when each is right.

A training step frees and takes the same blocks again and again: handed back to the system, they
have to be cleared each time, some 20,000 pages a step, a sixth of its time. So they are kept.
Loading takes large blocks that are never needed again between small ones that stay: kept, they
leave holes, and a model of 100 MB holds 350. So they are handed back at once.

glibc only; the allocators of other systems have no such dials and do without.
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
    """Keep what is freed for the next step."""
    _mode["keeps"] = True
    _set(trim=2**31 - 1, mmap=_MOST)


def spare() -> None:
    """Hand back what is freed at once: about half the peak, and steps a third slower."""
    _mode["keeps"] = False
    _set(trim=2**20, mmap=2**20)


@contextmanager
def sparing() -> Iterator[None]:
    """Hand back what is freed, for as long as this lasts; then as before."""
    before = _mode["keeps"]
    spare()
    try:
        yield
    finally:
        if before:
            keep()


def _set(trim: int, mmap: int) -> None:
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM, trim)
        library.mallopt(_MMAP, mmap)
        library.malloc_trim(0)
