"""The linear layers of a model that is being adapted.

    y = x W'  +  bias  +  (alpha / r) (x A') B'          W = decode(codes), not stored

`AdaptedLinear` is a frozen product (`frozen.py`) plus an adapter (`adapters.py`). `TrainedLinear`
is a layer trained in full precision, such as a new head. Train and eval mode differ in dropout
only, so an evaluation does not change later training steps. Weights are never merged implicitly; a
merged model is a separate export (`runs/export/merge.py`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lowbit.layers.adapters import Adapter, SvdAdapter
from lowbit.layers.autograd import AdaptedProduct
from lowbit.layers.frozen import FrozenMatrix
from lowbit.layers.matmul import product
from lowbit.models.dropout import dropout


class AdaptedLinear(nn.Module):
    """A frozen product, a bias, and an adapter if the rank is not zero."""

    def __init__(
        self, frozen: FrozenMatrix, bias: Tensor | None, adapter: Adapter | SvdAdapter | None
    ) -> None:
        super().__init__()
        self.frozen, self.adapter = frozen, adapter
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        if self.adapter is None:
            return self.frozen(x, self.bias)
        factors, rate = self.adapter.scaled_factors(x.dtype), self.adapter.dropout
        dropped = dropout(x, rate) if rate and self.training else None
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return AdaptedProduct.apply(
            x, dropped, factors.A, factors.B, factors.scale, self.frozen, bias
        )


class TrainedLinear(nn.Module):
    """A linear layer trained in fp32, for every compute type of the model.

    `out`: the type of its output; fp32 for a head, the compute type for layers inside blocks.
    `transposed`: the module that it replaces stores its weight as (in, out).
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        out: torch.dtype = torch.float32,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.out, self.transposed = out, transposed
        self.weight = nn.Parameter(weight.detach().float().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone())

    def forward(self, x: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return product(x.float(), self.weight, self.bias).to(self.out)

    def exported(self) -> dict[str, Tensor]:
        """Views of the trained tensors, shaped as in the module that was replaced."""
        weight = self.weight.detach()
        named = {"weight": weight.t() if self.transposed else weight}
        return named if self.bias is None else {**named, "bias": self.bias.detach()}
