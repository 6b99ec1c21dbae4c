"""Sites that are rounded with calibration text, and their cache.

A block is rounded with what the blocks before it give, so the key of a matrix holds its weights,
the text, and how every matrix before it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from lowbit.core import array_store
from lowbit.core.cache import cache_dir
from lowbit.core.spec import Choice, Plan, Site
from lowbit.layers.install import Correction
from lowbit.quant.codec import Packed
from lowbit.quant.formats import spell
from lowbit.runs.prepare import Prepared, weights_digest
from lowbit.tasks.base import Batch

VERSION = 3
"""Increase whenever the same weights and text would be rounded differently."""
_CORRECTION = ("left", "right")

Choices = Mapping[str, Choice]


@dataclass(frozen=True)
class RoundedSite:
    """A stored matrix, and the factors that its adapter starts at (`init = "weighted"`)."""

    packed: Packed
    correction: Correction | None = None


def needs_text(plan: Plan, site: Site, choice: Choice) -> bool:
    if choice.base == "trained":
        return False
    return choice.rounding != "nearest" or (
        site.depth is not None and starts_weighted(plan, choice)
    )


def starts_weighted(plan: Plan, choice: Choice) -> bool:
    """Whether the site's own adapter starts at a correction of its rounding error."""
    own_adapter = plan.init == "weighted" and not plan.adapter
    return own_adapter and choice.rank > 0 and choice.base == "frozen"


def cache_keys(
    prepared: Prepared, sites: Sequence[Site], choices: Choices, batches: Sequence[Batch]
) -> dict[str, str]:
    """The cache key of each site: its weights, the text, and how everything before it is stored."""
    outside = [s for s in sites if s.depth is None]
    inside = sorted((s for s in sites if s.depth is not None), key=lambda s: s.depth or 0)
    start = f"{VERSION}|{text_key(prepared, batches)}"
    plan = prepared.spec.plan
    stored = {s.name: f"{s.name}={_stored_as(plan, choices[s.name])}" for s in (*outside, *inside)}
    # A head is rounded before the blocks, with the inputs that the 16-bit model gives it.
    keys = {site.name: f"{start}|{stored[site.name]}" for site in outside}
    for site in inside:
        earlier = [s.name for s in (*outside, *inside) if s.depth is None or s.depth < site.depth]  # type: ignore[operator]
        keys[site.name] = "|".join([start, *(stored[name] for name in earlier), stored[site.name]])
    return keys


def text_key(prepared: Prepared, batches: Sequence[Batch]) -> str:
    """The weights and the text that rounding sees."""
    text = sha256()
    for batch in batches:
        text.update(batch.ids.numpy().tobytes() + repr(batch.lengths).encode())
    return f"{weights_digest(prepared.checkpoint)}|{text.hexdigest()}"


def _stored_as(plan: Plan, choice: Choice) -> str:
    rank = choice.rank if starts_weighted(plan, choice) else 0
    return f"{spell(choice.quant)} {choice.rounding} {choice.base} {rank}"


def _path(key: str) -> Path:
    return cache_dir() / "rounded" / f"{sha256(key.encode()).hexdigest()[:24]}.safetensors"


def save_cached(key: str, rounded: RoundedSite) -> None:
    tensors = rounded.packed.tensors()
    if rounded.correction is not None:
        tensors |= dict(zip(_CORRECTION, rounded.correction, strict=True))
    arrays = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
    array_store.save(_path(key), key, arrays)


def read_cached(key: str, site: Site, choice: Choice) -> RoundedSite | None:
    arrays = array_store.load(_path(key), key)
    if arrays is None:
        return None
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    left, right = (tensors.pop(name, None) for name in _CORRECTION)
    packed = Packed(choice.quant, site.shape, **tensors)
    return RoundedSite(packed, None if left is None or right is None else (left, right))
