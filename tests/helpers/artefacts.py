"""An honest artefact of a candidate, for tests that read or tamper with one."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers.models import opened
from safetensors.torch import save_file
from torch import Tensor

from lowbit.core.spec import BLOCK_ROLES
from lowbit.layers.ternary.grid import Grid
from lowbit.layers.ternary.linear import Recovery, TernaryLinear
from lowbit.layers.ternary.packing import pack_layer
from lowbit.models.checkpoint import open_checkpoint
from lowbit.models.family import find_sites
from lowbit.research.candidate.artefact import NAME


def write_artefact(
    folder: Path, where: Path, grid: Grid | None = None, bias: bool = False
) -> dict[str, Tensor]:
    """An honest artefact of a tiny model, as tensors."""
    model = opened(folder, "language").model().float()
    sites = find_sites(model, open_checkpoint(folder).matrices)
    blocks = {site.name for site in sites if site.role in BLOCK_ROLES}
    tensors: dict[str, Tensor] = {}
    for name in blocks:
        module = model.get_submodule(name)
        made = TernaryLinear(module.weight.detach(), None, grid or Grid(32), Recovery(bias=bias))  # type: ignore
        made.strength = 1.0
        kept = pack_layer(made)
        assert kept.packed.scales is not None
        tensors |= {f"{name}.codes": kept.packed.codes, f"{name}.scales": kept.packed.scales}
        if kept.bias is not None:
            tensors[f"{name}.bias"] = kept.bias
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] not in blocks:
            tensors[name] = parameter.detach().to(torch.float16).contiguous()
    where.mkdir(parents=True, exist_ok=True)
    save_file(tensors, where / NAME)
    return tensors
