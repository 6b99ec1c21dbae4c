"""Reads and checks the model file that a candidate exports: packed ternary matrices and the rest.

    SITE.codes    uint8 (rows, bytes), five codes a byte
    SITE.scales   int16 (rows, groups), the bits of 16-bit numbers
    SITE.bias     float16 (rows,), if training added one
    NAME          float16, every parameter of the model outside the block matrices

The file must hold exactly these tensors, so a candidate cannot hide capacity in others. Every byte
counts towards the effective bits a weight. The check is strict: a model with any other layout is
refused, even if it is good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lowbit.core.errors import LowbitError
from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.models.checkpoint import Checkpoint
from lowbit.models.family import find_sites, is_transposed
from lowbit.models.loading import load
from lowbit.quant.codec import Packed, decode
from lowbit.quant.formats import FORMATS, parse
from lowbit.quant.packing import unpack

NAME = "model.safetensors"
MOST_BYTES = 4 * 2**30


class RefusedError(LowbitError):
    """The artefact breaks a rule of the file format; the message says which one."""


@dataclass(frozen=True)
class ArtefactModel:
    """The model of an artefact, with its size."""

    model: nn.Module
    bits: float
    """Bits a ternary weight, with everything in the file counted."""
    stored: int
    """Bytes of all tensors."""
    zero: float
    """Share of the ternary weights that are zero."""


def read(folder: Path, checkpoint: Checkpoint) -> ArtefactModel:
    """Load the model of an artefact.

    Raises:
        RefusedError: A tensor is missing, superfluous, not finite or not ternary.
    """
    tensors = _tensors(folder / NAME)
    model = load(checkpoint, "language", 0, 0).float().eval()
    blocks = [s for s in find_sites(model, checkpoint.matrices) if s.role in BLOCK_ROLES]
    used: set[str] = set()
    weights = zeros = 0
    for site in blocks:
        zeros += _load_site(model, site, tensors, used)
        weights += site.shape[0] * site.shape[1]
    _load_rest(model, {site.name for site in blocks}, tensors, used)
    superfluous = sorted(set(tensors) - used)
    if superfluous:
        raise RefusedError(f"the artefact has a tensor that the model lacks: {superfluous[0]}")
    stored = sum(t.numel() * t.element_size() for t in tensors.values())
    return ArtefactModel(model, 8 * stored / weights, stored, zeros / weights)


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.is_symlink() or not path.is_file():
        raise RefusedError(f"the candidate left no {NAME}")
    if path.stat().st_size > MOST_BYTES:
        raise RefusedError(f"{NAME} is larger than any ternary model of this size")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError, KeyError) as error:
        raise RefusedError(f"{NAME} is damaged: {error}") from None


def _take(
    tensors: Mapping[str, Tensor],
    used: set[str],
    name: str,
    kind: torch.dtype,
    shape: tuple[int, ...],
) -> Tensor:
    """A tensor of the artefact with the right dtype and shape; its name is added to `used`."""
    if name not in tensors:
        raise RefusedError(f"the artefact lacks {name}")
    tensor = tensors[name]
    if tensor.dtype != kind or tuple(tensor.shape) != shape:
        actual, expected = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, kind))
        raise RefusedError(f"{name} is {actual} {tuple(tensor.shape)}, not {expected} {shape}")
    used.add(name)
    return tensor


def _load_site(model: nn.Module, site: Site, tensors: Mapping[str, Tensor], used: set[str]) -> int:
    """Decode a matrix into the model; returns how many of its weights are zero."""
    rows, columns = site.shape
    packing = FORMATS["ternary"].packing
    bytes_a_row = -(-columns // packing.codes)
    codes = _take(tensors, used, f"{site.name}.codes", torch.uint8, (rows, bytes_a_row))
    if int(codes.max()) >= packing.radix**packing.codes:
        raise RefusedError(f"{site.name}.codes has a byte that does not encode five ternary codes")
    digits = unpack(codes, columns, packing)
    group = _group(site, tensors)
    groups = 1 if group == "row" else -(-columns // int(group))
    scales = _take(tensors, used, f"{site.name}.scales", torch.int16, (rows, groups))
    if not bool(torch.isfinite(scales.view(torch.float16)).all()):
        raise RefusedError(f"{site.name}.scales are not finite")
    packed = Packed(parse(f"ternary@{group}"), site.shape, codes, scales)
    module = model.get_submodule(site.name)
    weight = decode(packed)
    # The format implies three values a group; this checks the decoded weights themselves.
    _assert_ternary(site, weight, scales.view(torch.float16).float(), group)
    with torch.no_grad():
        module.weight.copy_(weight.t() if is_transposed(module) else weight)  # type: ignore[union-attr, operator]
    name = f"{site.name}.bias"
    if name in tensors:
        bias = _take(tensors, used, name, torch.float16, (rows,)).float()
        if not bool(torch.isfinite(bias).all()):
            raise RefusedError(f"{name} is not finite")
        module.bias = nn.Parameter(bias, requires_grad=False)
    elif getattr(module, "bias", None) is not None:
        raise RefusedError(f"the artefact lacks {name}")
    return int((digits == 1).sum())


def _group(site: Site, tensors: Mapping[str, Tensor]) -> int | str:
    """Group size of a matrix, from its number of scales a row."""
    scales = tensors.get(f"{site.name}.scales")
    if scales is None or scales.dim() != 2 or not 1 <= scales.shape[1] <= site.shape[1]:
        raise RefusedError(f"{site.name}.scales is missing or does not have shape (rows, groups)")
    count = scales.shape[1]
    if count == 1:
        return "row"
    for size in (32, 64, 128, 256):
        if -(-site.shape[1] // size) == count:
            return size
    raise RefusedError(
        f"{site.name} has {count} scales a row, which fits none of the group sizes 32, 64, 128, "
        "256 and a whole row"
    )


def _assert_ternary(site: Site, weight: Tensor, scales: Tensor, group: int | str) -> None:
    size = site.shape[1] if group == "row" else int(group)
    scale_of_weight = scales.repeat_interleave(size, 1)[:, : site.shape[1]]
    if not bool(((weight == 0) | (weight.abs() == scale_of_weight.abs())).all()):
        raise RefusedError(f"{site.name} has weights that are not -1, 0 or +1 times a scale")


def _load_rest(
    model: nn.Module, blocks: set[str], tensors: Mapping[str, Tensor], used: set[str]
) -> None:
    """Copy the parameters outside the blocks: embeddings, norms and heads, in 16 bits."""
    for name, parameter in model.named_parameters():
        site = name.rpartition(".")[0]
        if site in blocks:
            continue
        tensor = _take(tensors, used, name, torch.float16, tuple(parameter.shape))
        if not bool(torch.isfinite(tensor).all()):
            raise RefusedError(f"{name} is not finite")
        with torch.no_grad():
            parameter.copy_(tensor.float())
