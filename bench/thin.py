"""The thin products of an adapter in every order, by time:  python bench/thin.py [TOKENS IN OUT]

Why `lowbit.products` writes its four products as it does. Rank 8, fp32, median of 30.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional as F


def main() -> None:
    tokens, width, out = (int(w) for w in sys.argv[1:4]) if len(sys.argv) > 3 else (1024, 384, 1024)
    x, grad = torch.randn(tokens, width), torch.randn(tokens, out)
    A, B = torch.randn(8, width), torch.randn(out, 8)
    thin, rows = torch.randn(tokens, 8), B.t().contiguous()
    orders: dict[str, Callable[[], object]] = {
        "thin  = x A'        linear(x, A)": lambda: F.linear(x, A),
        "                    x @ A' copied": lambda: x @ A.t().contiguous(),
        "back  = g B         g @ B": lambda: grad @ B,
        "                    linear(g, B' copied)": lambda: F.linear(grad, rows),
        "dB    = g' thin     g' @ thin": lambda: grad.t() @ thin,
        "                    (thin' @ g)'": lambda: (thin.t() @ grad).t(),
        "dA    = back' x     back' @ x": lambda: thin.t() @ x,
        "                    (x' @ back)'": lambda: (x.t() @ thin).t(),
    }
    print(f"{tokens} tokens, {width} to {out}, {torch.get_num_threads()} threads")
    for name, work in orders.items():
        print(f"{name:42} {1e3 * _seconds(work):7.3f} ms")


def _seconds(work: Callable[[], object]) -> float:
    found = []
    for _ in range(30):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return median(found)


if __name__ == "__main__":
    main()
