"""Caches encoded matrices, so that all seeds of a plan encode the base once.

Each matrix is a file. Its name is a hash of the checkpoint's digest, the matrix, its full format
and the encoder's version. A cached matrix equals a newly encoded one bit for bit. Plain types
(bf16, fp16, fp32) are not cached: casting is as fast as reading. A matrix of a GGUF file in the
file's own format is copied from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowbit.core.array_store import Arrays, load_or_compute
from lowbit.core.errors import RunError
from lowbit.core.spec import QuantSpec
from lowbit.models.gguf_model import GgufWeights
from lowbit.quant.codec import TENSORS, Packed, encode
from lowbit.quant.formats import is_cast, spell

ENCODER = 1
"""Increase whenever the same weights would be encoded differently."""


@dataclass(frozen=True)
class Encodings:
    """Encodes the matrices of one checkpoint, or reads them from the cache."""

    cache: Path
    checkpoint: str
    gguf: GgufWeights | None = None
    rounded: Mapping[str, Packed] = field(default_factory=dict)
    """Matrices that were rounded with calibration text."""

    def __call__(self, name: str, weight: Tensor, spec: QuantSpec) -> Packed:
        if name in self.rounded:
            return self.rounded[name]
        if not is_cast(spec) and (matrix := self._of_file(name, weight, spec)) is not None:
            return matrix
        if is_cast(spec) or weight.device.type != "cpu":
            return encode(weight, spec)
        key = f"{ENCODER}|{self.checkpoint}|{name}|{spell(spec)}|{spec}|{tuple(weight.shape)}"
        path = self.cache / "encoded" / f"{sha256(key.encode()).hexdigest()[:24]}.safetensors"
        arrays = load_or_compute(path, key, partial(_arrays, weight, spec))
        tensors = {n: torch.from_numpy(np.array(arrays[n])) for n in TENSORS if n in arrays}
        return Packed(spec, (weight.shape[0], weight.shape[1]), **tensors)

    def _of_file(self, name: str, weight: Tensor, spec: QuantSpec) -> Packed | None:
        """The matrix as a GGUF file stores it, if that is in this format."""
        if self.gguf is None or self.gguf.stored_formats().get(name) != spell(spec):
            return None
        matrix = self.gguf.packed(name)
        if matrix is None:
            raise RunError(f"{name}: a scale of the file is too large for {spell(spec)}; use bf16")
        moved = {key: tensor.to(weight.device) for key, tensor in matrix.tensors().items()}
        return Packed(matrix.spec, matrix.shape, **moved)


def _arrays(weight: Tensor, spec: QuantSpec) -> Arrays:
    return {name: tensor.numpy() for name, tensor in encode(weight, spec).tensors().items()}
