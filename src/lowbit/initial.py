"""Where an adapter starts: at zero, or at what quantisation took away.

`init = "residual"`: B A starts as the best rank-r approximation (Eckart-Young) of W - decode(W's
codes), so the first step begins nearer to the unquantised model. Any format, any device: a
singular value decomposition in fp32 is all it takes. LoftQ alternates this with encoding again;
one round is what is done here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lowbit.layers import Adapter, SvdAdapter


def best_factors(
    residual: Float[Tensor, "out in"], rank: int
) -> tuple[Float[Tensor, "rank in"], Float[Tensor, " rank"], Float[Tensor, "out rank"]]:
    """(right vectors, singular values, left vectors) of the `rank` largest directions."""
    left, values, right = torch.linalg.svd(residual, full_matrices=False)
    return right[:rank], values[:rank], left[:, :rank]


@torch.no_grad()
def start_from_residual(adapter: Adapter | SvdAdapter, residual: Tensor) -> None:
    """Set an adapter to the residual's best approximation, its scaling taken out."""
    right, values, left = best_factors(residual.float(), len(adapter.A))
    if isinstance(adapter, SvdAdapter):
        adapter.A.copy_(right)
        adapter.B.copy_(left)
        adapter.E.copy_(values / adapter.scaling)
        return
    root = values.sqrt()
    adapter.A.copy_(root[:, None] * right)
    adapter.B.copy_(left * root / adapter.scaling)
