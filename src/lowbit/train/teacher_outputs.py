"""Compress a full-precision teacher's outputs, and compute losses against them.

For every token the k largest log-probabilities are stored, and the total probability of all other
tokens as one more outcome. The KL divergence over these k + 1 outcomes is a true divergence. It
never exceeds that over the whole vocabulary. Features of some layers are stored in 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

FLOOR = -30.0
"""The lowest log-probability of the rest that is stored."""


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's outputs for one sequence.

    `values` and `index`: (tokens, k) log-probabilities and their token ids. `rest`: (tokens,) the
    log-probability of all other tokens. `features`: (tokens, width) by layer.
    """

    values: Tensor
    index: Tensor
    rest: Tensor
    features: Mapping[int, Tensor]

    def cpu(self) -> TeacherOutputs:
        """A copy in the CPU's memory."""
        features = {layer: states.cpu() for layer, states in self.features.items()}
        return TeacherOutputs(self.values.cpu(), self.index.cpu(), self.rest.cpu(), features)

    @property
    def nbytes(self) -> int:
        tensors = (self.values, self.index, self.rest, *self.features.values())
        return sum(t.numel() * t.element_size() for t in tensors)


def compress_outputs(
    logits: Float[Tensor, "tokens vocabulary"], k: int, features: Mapping[int, Tensor] | None = None
) -> TeacherOutputs:
    """Compress a teacher's outputs to 6 k + 2 bytes per token, and two per feature value."""
    logprobs = logits.detach().float().log_softmax(-1)
    values, index = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
    halves = {layer: t.detach().to(torch.float16) for layer, t in (features or {}).items()}
    return TeacherOutputs(
        values.to(torch.float16), index.to(torch.int32), _rest(values).to(torch.float16), halves
    )


def _rest(values: Tensor) -> Tensor:
    """log(1 - sum exp(values)), no lower than FLOOR."""
    mass = values.float().exp().sum(-1).clamp(max=1.0)
    return torch.log1p(-mass.clamp(max=1 - 1e-7)).clamp(min=FLOOR)


def divergence(
    logits: Float[Tensor, "tokens vocabulary"], outputs: TeacherOutputs
) -> Float[Tensor, ""]:
    """KL(teacher || student) per token over the k outcomes and the rest."""
    student = logits.float().log_softmax(-1)
    top = student.gather(-1, outputs.index.long())
    student = torch.cat([top, _rest(top)[..., None]], -1)
    teacher = torch.cat([outputs.values.float(), outputs.rest.float()[..., None]], -1)
    teacher = teacher.log_softmax(-1)  # probabilities in 16 bits do not sum to one
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


def direction_error(features: Mapping[int, Tensor], outputs: TeacherOutputs) -> Float[Tensor, ""]:
    """1 minus the cosine between teacher and student features, mean over layers and tokens."""
    errors = [
        1 - F.cosine_similarity(features[layer].float(), states.float(), dim=-1).mean()
        for layer, states in outputs.features.items()
    ]
    return torch.stack(errors).mean()


def feature_error(features: Mapping[int, Tensor], outputs: TeacherOutputs) -> Float[Tensor, ""]:
    """Squared distance relative to the teacher's squared size, mean over layers."""
    errors = []
    for layer, states in outputs.features.items():
        target = states.float()
        errors.append((features[layer].float() - target).square().mean() / target.square().mean())
    return torch.stack(errors).mean()
