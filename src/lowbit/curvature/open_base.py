"""Opens a checkpoint to be run block after block, with the weights that 16 bits store."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lowbit.curvature.full_precision import hold_in_16_bits
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.site_curvature import as_site
from lowbit.models.blocks import Blocks
from lowbit.models.checkpoint import Checkpoint
from lowbit.models.family import find_sites
from lowbit.models.weights import blank
from lowbit.tasks.base import Batch
from lowbit.train.losses import Kind


def open_base(
    checkpoint: Checkpoint,
    kind: Kind,
    pad: int | None,
    batches: Sequence[Batch],
    documents: Sequence[int] = (),
    labels: int = 0,
) -> MeasuredModel:
    """The base model with some text. Its blocks stay in the checkpoint, also in a GGUF file."""
    model, weights = blank(checkpoint, kind, labels, pad, torch.device("cpu"))
    sites = find_sites(model, checkpoint.matrices)
    with Blocks(model, sites).absent():
        weights.fill(model, "")
    base: dict[str, Tensor] = {}
    for site in sites:
        weight: Tensor = model.get_submodule(site.name).weight.detach()  # type: ignore
        if not weight.is_meta and weight.dtype != torch.bfloat16:
            base[site.name] = as_site(model, site.name, weight)
    hold_in_16_bits(model)
    return MeasuredModel(
        model, sites, batches, kind, base, documents,
        file_formats=checkpoint.stored if checkpoint.gguf is not None else {},
        source=weights,
    )  # fmt: skip
