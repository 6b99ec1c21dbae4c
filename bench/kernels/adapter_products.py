"""Time an adapter's four low-rank products in every order.

    python bench/kernels/adapter_products.py [TOKENS IN OUT]

`lowbit.layers.autograd` uses the fastest orders. Rank 8, fp32, median of 25. The products are below
the public API, so torch is called directly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from clock import seconds
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
        print(f"{name:42} {1e3 * seconds(work):7.3f} ms")


if __name__ == "__main__":
    main()
