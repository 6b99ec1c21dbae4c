"""Read weights one tensor at a time, so that a model larger than memory can be quantised.

`blank` builds the model without weights, and `Weights.fill` reads one module's weights from the
files. A caller that encodes each matrix and frees it has one unencoded matrix in memory at a time.
Files are read and not memory-mapped, because mapped pages would count as memory of the process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn

from lowbit.core.errors import RunError, UserError
from lowbit.models.checkpoint import Checkpoint, weight_files
from lowbit.models.family import family_of
from lowbit.models.skeleton import Kind, auto, configured, quiet

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
# Names in checkpoints from before 2019.
_OLD = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


@dataclass(frozen=True)
class Place:
    """The position of a tensor in a file."""

    path: Path
    start: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class Weights:
    """The tensors of a checkpoint, each read from its file when `fill` needs it."""

    def __init__(self, checkpoint: Checkpoint, prefix: str, device: torch.device) -> None:
        self.checkpoint, self.prefix, self.device = checkpoint, prefix, device
        # A tied weight is one parameter of two modules and is read once. The weak references let
        # weights be freed that no module uses any more.
        self._read_already: WeakValueDictionary[nn.Parameter, nn.Parameter]
        self._read_already = WeakValueDictionary()

    @cached_property
    def places(self) -> dict[str, Place]:
        places: dict[str, Place] = {}
        for path in weight_files(self.checkpoint.folder):
            places |= _places(path)
        return places

    def fill(self, module: nn.Module, name: str) -> None:
        """Read the weights that a module, or a module inside it, does not have yet."""
        for inner, child in module.named_modules():
            full = ".".join(part for part in (name, inner) if part)
            for key, parameter in child.named_parameters(recurse=False):
                if parameter.is_meta:
                    weight = self._read_already.get(parameter)
                    if weight is None:
                        tensor = self._read(f"{full}.{key}", tuple(parameter.shape))
                        weight = nn.Parameter(tensor, requires_grad=False)
                        self._read_already[parameter] = weight
                    setattr(child, key, weight)

    def matrix(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The weight of one module, in the layout and type that it is stored in."""
        return self._read(f"{name}.weight", shape)

    @contextmanager
    def filled(self, module: nn.Module, name: str) -> Iterator[None]:
        """The weights that a module lacks, for as long as the context lasts."""
        lacking = [
            (child, key, parameter)
            for child in module.modules()
            for key, parameter in child.named_parameters(recurse=False)
            if parameter.is_meta
        ]
        self.fill(module, name)
        try:
            yield
        finally:
            for child, key, parameter in lacking:
                setattr(child, key, parameter)

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        location = self._locate(name)
        if location is None:
            site = family_of(self.checkpoint.config.model_type).match(name.rpartition(".")[0])
            if site is None or site.role != "head":
                raise UserError(f"{self.checkpoint.folder}: its weights lack '{name}'")
            return torch.zeros(shape, device=self.device)  # a fresh head; install initialises it
        stored, load = location
        if stored != shape:
            raise UserError(
                f"{self.checkpoint.folder}: '{name}' is {stored} in the weights, but the "
                f"configuration and the task's classes require {shape}"
            )
        return load().to(self.device)

    def _locate(self, name: str) -> tuple[tuple[int, ...], Callable[[], Tensor]] | None:
        """The shape of a tensor and the function that reads it; None if it is not stored."""
        if self.checkpoint.gguf is not None:
            shape = self.checkpoint.gguf.shape(name)
            return None if shape is None else (shape, partial(self.checkpoint.gguf.read, name))
        place = self._find(name)
        return None if place is None else (place.shape, partial(_load, place))

    def _find(self, name: str) -> Place | None:
        """Find a tensor by its name, its name in a checkpoint of the body, or its pre-2019 name."""
        bare = name.removeprefix(self.prefix + ".")
        for candidate in (name, bare, f"{self.prefix}.{name}"):
            for new, old in (("", ""), *_OLD):
                place = self.places.get(candidate.replace(new, old) if new else candidate)
                if place is not None:
                    return place
        return None


def blank(
    checkpoint: Checkpoint, kind: Kind, labels: int, pad: int | None, device: torch.device
) -> tuple[nn.Module, Weights]:
    """The model without weights, and the `Weights` that fill it."""
    with torch.device("meta"), quiet():
        model = auto(kind).from_config(configured(checkpoint, kind, labels, pad))
    for module in model.modules():
        _fill_buffers(model, module)
    return model.eval(), Weights(checkpoint, model.base_model_prefix, device)


def _fill_buffers(model: Any, module: nn.Module) -> None:
    """Compute the buffers that no file stores (rotary frequencies, positions)."""
    empty = {n: b for n, b in module.named_buffers(recurse=False) if b.is_meta}
    for name, buffer in empty.items():
        module._buffers[name] = torch.zeros_like(buffer, device="cpu")
    if empty:
        model._init_weights(module)


def _places(path: Path) -> dict[str, Place]:
    """The header of a safetensors file: its length in eight bytes, then JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = path.stat().st_size
        return {name: _place(path, entry, 8 + length, end) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise RunError(f"{path} is damaged or not a safetensors file: {error}") from error


def _place(path: Path, entry: dict[str, Any], base: int, end: int) -> Place:
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= end - base:
        raise ValueError("a tensor is outside the file")
    return Place(
        path, base + first, last - first, _TYPES.get(entry["dtype"], torch.uint8),
        tuple(entry["shape"]),
    )  # fmt: skip


def _load(place: Place) -> Tensor:
    buffer = np.empty(place.size, np.uint8)
    with place.path.open("rb") as file:
        file.seek(place.start)
        if file.readinto(buffer) != place.size:  # type: ignore[arg-type]
            raise RunError(f"{place.path} ends before its last tensor")
    return torch.from_numpy(buffer).view(place.dtype).view(place.shape)
