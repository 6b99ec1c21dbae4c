"""The low-bit grid that a checkpoint's block matrices already lie on, if there is one.

Such a checkpoint was decoded from a quantised file. The format of its grid costs it nothing, so
plans should be offered it.
"""

from __future__ import annotations

from collections import Counter

import torch

from lowbit.models.family import find_sites, is_transposed
from lowbit.models.weights import blank
from lowbit.quant.find_grid import find_grid
from lowbit.quant.formats import is_cast, parse
from lowbit.runs.prepare import Prepared

SITES = 8
"""Block matrices that are looked at, spread over the depth."""


def checkpoint_grid(prepared: Prepared) -> str | None:
    """The format that keeps most block matrices as they are; None if they lie on no grid."""
    checkpoint = prepared.checkpoint
    model, weights = blank(
        checkpoint, prepared.kind, prepared.labels, prepared.pad, torch.device("cpu")
    )
    blocks = [s for s in find_sites(model, checkpoint.matrices) if s.depth is not None]
    chosen = blocks[:: -(-len(blocks) // SITES)]
    grids: Counter[str | None] = Counter()
    for site in chosen:
        if checkpoint.gguf is not None:
            text = checkpoint.stored[site.name]
            grids[None if is_cast(parse(text)) else text] += 1
            continue
        module = model.get_submodule(site.name)
        weights.fill(module, site.name)
        weight: torch.Tensor = module.weight.detach()  # type: ignore[union-attr, operator, assignment]
        grids[find_grid(weight.t() if is_transposed(module) else weight)] += 1
    grid, count = grids.most_common(1)[0]
    return grid if 2 * count > len(chosen) else None
