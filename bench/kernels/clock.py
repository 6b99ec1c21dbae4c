"""How long a piece of work takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median


def seconds(work: Callable[[], object]) -> float:
    """Median of 25, after five that warm up."""
    found = []
    for _ in range(30):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return median(found[5:])
