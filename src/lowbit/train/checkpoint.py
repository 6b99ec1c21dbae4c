"""Save a training state to disk, so that a resumed run gives the same results to the bit.

A checkpoint is one safetensors file, so nothing is unpickled. It is written atomically and its
header holds a digest of its content. A damaged file is treated as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lowbit.core.files import write_atomic


@dataclass(frozen=True)
class Position:
    """The numbers that describe how far a run has come."""

    fingerprint: str
    step: int = 0
    best_step: int = -1
    best_value: float | None = None
    log_bytes: int = 0
    tokens: int = 0
    recent_loss: float = 0.0
    recent_labels: int = 0
    train_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    recent_squares: float = 0.0
    recent_steps: int = 0
    stretch_variance: float = 0.0
    stretch_steps: int = 0
    quietest: float = 0.0
    warned: bool = False


def write(path: Path, position: Position, tensors: Mapping[str, Tensor]) -> None:
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    position_json = json.dumps(asdict(position))
    header = {"position": position_json, "digest": _digest(position_json, copies)}
    write_atomic(path, save(copies, metadata=header))


def read(path: Path, fingerprint: str) -> tuple[Position, dict[str, Tensor]] | None:
    """This run's checkpoint; None if it is absent, damaged, or belongs to another run."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        position = Position(**json.loads(header["position"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    intact = header.get("digest") == _digest(header["position"], tensors)
    return (position, tensors) if intact and position.fingerprint == fingerprint else None


def _digest(position: str, tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256(position.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
