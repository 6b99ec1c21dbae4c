"""Ternary bases that a run trained, packed: five codes a byte, the very numbers it was scored with.

    SITE.codes    uint8 (rows, bytes)      SITE.scales   int16, the bits of 16-bit numbers
    SITE.bias     float16 (rows,), where training made one or the site had one

Attached again they are ordinary frozen matrices, fed with what they were trained with: activations
of 8 bits, where the recipe says so.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lowbit.core.errors import UserError
from lowbit.core.files import write_atomic
from lowbit.layers.frozen import Frozen
from lowbit.layers.linear import Adapted
from lowbit.layers.ternary.linear import layers, round_activations
from lowbit.layers.ternary.packing import pack_layer
from lowbit.quant.codec import Packed
from lowbit.quant.formats import parse

NAME = "ternary.safetensors"


def write(folder: Path, model: nn.Module) -> None:
    """Nothing where no base was trained."""
    tensors: dict[str, Tensor] = {}
    for name, layer in layers(model).items():
        kept = pack_layer(layer)
        assert kept.packed.scales is not None
        tensors |= {f"{name}.codes": kept.packed.codes, f"{name}.scales": kept.packed.scales}
        if kept.bias is not None:
            tensors[f"{name}.bias"] = kept.bias
    if tensors:
        held = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        write_atomic(folder / NAME, save(held, metadata={"format": "pt"}))


def attach(model: nn.Module, folder: Path) -> None:
    """Put the packed matrices in the place of the layers that trained them."""
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
        kind = Eight if layer.recovery.activations else Adapted
        setattr(model.get_submodule(parent), last, kind(Frozen(packed), own, None))


class Eight(Adapted):
    """A frozen matrix whose activations are rounded to 8 bits on their way in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(round_activations(x))
