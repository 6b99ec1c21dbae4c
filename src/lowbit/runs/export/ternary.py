"""Writes and reads the ternary weights of a trained base, packed with five codes per byte.

    SITE.codes    uint8 (rows, bytes)
    SITE.scales   int16, the bit patterns of 16-bit numbers
    SITE.bias     float16 (rows,), if the site has a bias

The file has exactly the numbers that were scored. When read, they become ordinary frozen matrices.
Their inputs are rounded to 8 bits if the plan trained with 8-bit activations.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lowbit.core.errors import UserError
from lowbit.core.files import write_atomic
from lowbit.layers.frozen import FrozenMatrix
from lowbit.layers.linear import AdaptedLinear
from lowbit.layers.ternary.linear import layers, round_activations
from lowbit.layers.ternary.packing import pack_layer
from lowbit.quant.codec import Packed
from lowbit.quant.formats import parse

NAME = "ternary.safetensors"


def write(folder: Path, model: nn.Module) -> None:
    """Write the packed ternary layers of a model; no file if it has none."""
    tensors: dict[str, Tensor] = {}
    for name, layer in layers(model).items():
        packed_layer = pack_layer(layer)
        assert packed_layer.packed.scales is not None
        tensors |= {
            f"{name}.codes": packed_layer.packed.codes,
            f"{name}.scales": packed_layer.packed.scales,
        }
        if packed_layer.bias is not None:
            tensors[f"{name}.bias"] = packed_layer.bias
    if tensors:
        stored = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        write_atomic(folder / NAME, save(stored, metadata={"format": "pt"}))


def attach(model: nn.Module, folder: Path) -> None:
    """Replace the trainable ternary layers of a model with the packed matrices."""
    trained = layers(model)
    if not trained:
        return
    path = folder / NAME
    if not path.is_file():
        raise UserError(f"{folder} holds no {NAME}: run it again")
    tensors = load_file(path)
    for name, layer in trained.items():
        spec = parse(f"ternary@{layer.grid.group}")
        packed = Packed(spec, layer.shape, tensors[f"{name}.codes"], tensors[f"{name}.scales"])
        bias = tensors.get(f"{name}.bias")
        own = None if bias is None else nn.Parameter(bias.to(torch.float32), requires_grad=False)
        parent, _, last = name.rpartition(".")
        kind = EightBitActivations if layer.recovery.activations else AdaptedLinear
        setattr(model.get_submodule(parent), last, kind(FrozenMatrix(packed), own, None))


class EightBitActivations(AdaptedLinear):
    """A frozen matrix whose input activations are rounded to 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(round_activations(x))
