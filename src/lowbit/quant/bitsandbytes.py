"""Decode nf4 with bitsandbytes' fused GPU kernel: the same numbers as our own decoder.

Its layout differs from ours in two ways: the first code of a byte is the upper half, and scales
are fp32. Each call converts both, so no second copy of the tensors is stored.
bitsandbytes is an optional package, imported at the first use.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from lowbit.core.errors import UserError
from lowbit.quant.codec import Packed, scales_of

SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Group sizes that its kernels support."""


@cache
def library() -> Any:
    """bitsandbytes' functions, or an error that says how to install them."""
    try:
        import bitsandbytes.functional as functional
    except ImportError:
        raise UserError(
            'execution.decoder = "bitsandbytes" needs that package: '
            "pip install 'lowbit[bitsandbytes]'"
        ) from None
    return functional


def fits(packed: Packed) -> bool:
    """Whether its kernel decodes this matrix correctly: no group may cross rows."""
    spec = packed.spec
    groups_fit = spec.group in SIZES and packed.shape[1] % int(spec.group) == 0
    return spec.format == "nf4" and spec.offset == "none" and groups_fit


def decode(packed: Packed, dtype: torch.dtype) -> Tensor:
    """Decode a matrix."""
    functional = library()
    state = functional.QuantState(
        absmax=scales_of(packed).flatten(),
        shape=torch.Size(packed.shape),
        code=functional.get_4bit_type("nf4", device=packed.codes.device),
        blocksize=int(packed.spec.group),
        quant_type="nf4",
        dtype=dtype,
    )
    swapped = (packed.codes >> 4) | (packed.codes << 4)
    weight: Tensor = functional.dequantize_4bit(swapped.view(-1, 1), state)
    return weight
