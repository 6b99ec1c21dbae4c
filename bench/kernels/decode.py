"""Time to decode one matrix, by format.

    python bench/kernels/decode.py [ROWS COLUMNS]

It times `lowbit.quant.codec` directly: the public API does not decode single matrices.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import torch

from lowbit.quant.codec import decode, encode
from lowbit.quant.formats import FORMATS, parse, spell


def main() -> None:
    rows, columns = (int(word) for word in sys.argv[1:3]) if len(sys.argv) > 2 else (1536, 576)
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    print(f"{rows} x {columns}, {torch.get_num_threads()} threads, median of 20")
    for text in [*FORMATS, "nf4@64+dq", "bf16"]:
        packed = encode(weight, parse(text))
        decode(packed)
        seconds = [_timed(packed) for _ in range(20)]
        print(f"{spell(packed.spec):14} {1e3 * median(seconds):6.2f} ms")


def _timed(packed: object) -> float:
    began = time.perf_counter()
    decode(packed)  # type: ignore[arg-type]
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
