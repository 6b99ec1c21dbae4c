"""Three policies for freed memory in the C library, and when to use each.

A training step frees and allocates the same blocks repeatedly. If they go back to the system, it
clears about 20,000 pages each step, a sixth of the step's time; so the process keeps them.
Loading allocates large temporary blocks between small ones that stay. If the process keeps them,
they leave holes, and a model of 100 MB occupies 350; so they go back to the system at once.
Measuring does both by turns, so it keeps a few tens of megabytes. Holes between blocks in use are
no policy's matter, and grow to more than what is in use: measuring empties them after each step,
and at each site before each format.

This needs glibc. On other systems nothing changes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_MOST = 2**25  # the largest mmap threshold that glibc accepts
_RETURN, _SOME, _KEEP = (2**20, 2**20), (2**25, 2**23), (2**31 - 1, _MOST)
_policy = {"now": _RETURN}


def keep_freed_memory() -> None:
    """Keep freed memory for the next step."""
    _set(_KEEP)


def return_freed_memory() -> None:
    """Return freed memory at once. This halves peak memory, about, and slows steps by a third."""
    _set(_RETURN)


@contextmanager
def returning_freed_memory() -> Iterator[None]:
    """Return freed memory at once inside this context, then restore the policy."""
    with _policy_inside(_RETURN):
        yield


@contextmanager
def keeping_some_freed_memory() -> Iterator[None]:
    """Keep blocks of up to 8 MB, and 32 MB in all, inside this context; restore the policy."""
    with _policy_inside(_SOME):
        yield


def emptying_holes(on_progress: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """`on_progress`, which first returns every free page to the system, wherever it lies."""

    def emptied(phase: str, done: int, total: int) -> None:
        empty_holes()
        on_progress(phase, done, total)

    return emptied


def empty_holes() -> None:
    """Return every free page to the system, wherever it lies."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _policy_inside(policy: tuple[int, int]) -> Iterator[None]:
    before = _policy["now"]
    _set(policy)
    try:
        yield
    finally:
        _set(before)


def _set(policy: tuple[int, int]) -> None:
    """Set the thresholds above which freed memory is returned and blocks are mapped."""
    _policy["now"] = policy
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        trim, mmap = policy
        library.mallopt(_TRIM, trim)
        library.mallopt(_MMAP, mmap)
    empty_holes()
