"""nf4 decoded by bitsandbytes' kernel, for those who have it: the same numbers, fused on a GPU.

Its layout is ours but for two things: the first code of a byte is its upper half, and scales are
fp32. Both are turned on the way in, so that what is stored stays ours and no copy is kept.
It is an optional package, imported when it is first asked for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from lowbit.core.errors import UserError
from lowbit.quant.codec import Packed, scales_of

SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Groups that its kernels know."""


@cache
def library() -> Any:
    """bitsandbytes' functions, or an error that says how to get them."""
    try:
        import bitsandbytes.functional as functional
    except ImportError:
        raise UserError(
            'execution.decoder = "bitsandbytes" needs that package: '
            "pip install 'lowbit[bitsandbytes]'"
        ) from None
    return functional


def fits(packed: Packed) -> bool:
    """Whether its kernel can read this matrix: its decoder is wrong where a group crosses rows."""
    spec = packed.spec
    whole = spec.group in SIZES and packed.shape[1] % int(spec.group) == 0
    return spec.format == "nf4" and spec.offset == "none" and whole


def decode(packed: Packed, dtype: torch.dtype) -> Tensor:
    """The matrix that the codes stand for."""
    functional = library()
    state = functional.QuantState(
        absmax=scales_of(packed).flatten(),
        shape=torch.Size(packed.shape),
        code=functional.get_4bit_type("nf4", device=packed.codes.device),
        blocksize=int(packed.spec.group),
        quant_type="nf4",
        dtype=dtype,
    )
    turned = (packed.codes >> 4) | (packed.codes << 4)
    found: Tensor = functional.dequantize_4bit(turned.view(-1, 1), state)
    return found
