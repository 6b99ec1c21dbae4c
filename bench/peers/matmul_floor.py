"""The lower bound of a step's time: its base matrix products alone.

Every base product of the step forward and backward, by the faster of torch's libraries, on matrices
of their own (so that caches see what they would see), with the tokens that a step has. Comparisons
give a step's share of this limit. Products of attention and adapters are left out, so no side can
reach 100 %.

    python bench/peers/matmul_floor.py [MODEL] [TOKENS] [lm|sst2]
"""

from __future__ import annotations

import json
import sys
import time
from statistics import median
from typing import Any


def limit(model: str, tokens: int, work: str, rounds: int = 7) -> dict[str, float]:
    """Seconds of the products of one step in each compute type."""
    import torch
    from request import folder_of

    from lowbit.layers import matmul
    from lowbit.models.checkpoint import open_checkpoint
    from lowbit.models.family import find_sites
    from lowbit.models.skeleton import skeleton
    from lowbit.runs import allocator, device

    allocator.keep_freed_memory()
    checkpoint = open_checkpoint(folder_of(model)[0])
    kind: Any = "language" if work == "lm" else "classification"
    sites = find_sites(skeleton(checkpoint, kind, 2), checkpoint.matrices)
    shapes = [site.shape for site in sites if site.role in ("attention", "ffn")]
    if work == "lm":
        # The head sees every token; its gradient with respect to them is one product more.
        shapes += [s.shape for s in sites if s.role == "head" or s.aliases]
    medians = {}
    speeds = device.matmul_speeds(torch.device("cpu"))
    for name, speed in speeds.items():
        if speed < max(speeds.values()) / 4:
            continue  # emulated: it bounds nothing, and takes minutes
        dtype = device.TYPES[name]
        weights = [torch.randn(shape).to(dtype) for shape in shapes]
        inputs = {s: torch.randn(tokens, s[1]).to(dtype) for s in set(shapes)}
        slopes = {s: torch.randn(tokens, s[0]).to(dtype) for s in set(shapes)}
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            for weight in weights:
                matmul.linear(inputs[tuple(weight.shape)], weight)
            for weight in reversed(weights):
                matmul.input_gradient(slopes[tuple(weight.shape)], weight)
            seconds.append(time.perf_counter() - began)
        medians[name] = median(seconds[1:])
    return medians


if __name__ == "__main__":
    words = [*sys.argv[1:], *["assets:lm-14m", "1024", "lm"][len(sys.argv) - 1 :]]
    print(json.dumps(limit(words[0], int(words[1]), words[2])))
