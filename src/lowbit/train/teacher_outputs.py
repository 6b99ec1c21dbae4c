"""What a full-precision teacher said, kept small, and losses against it.

Of every token's logits the k largest log-probabilities and the mass of all others are kept: an
outcome more than k, so that the KL over them is a true divergence and never more than the whole
one. Features of chosen layers are kept in 16 bits. The memory is bounded and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

FLOOR = -30.0
"""Log-probability below which the rest counts as nothing: what 16 bits can hold."""


@dataclass(frozen=True)
class TeacherOutputs:
    """One sequence of a teacher: (tokens, k) log-probabilities and indices, (tokens,) the rest's
    log-mass, and (tokens, width) features by layer."""

    values: Tensor
    index: Tensor
    rest: Tensor
    features: Mapping[int, Tensor]

    def cpu(self) -> TeacherOutputs:
        """The same where there is room for it."""
        features = {layer: held.cpu() for layer, held in self.features.items()}
        return TeacherOutputs(self.values.cpu(), self.index.cpu(), self.rest.cpu(), features)

    @property
    def nbytes(self) -> int:
        tensors = (self.values, self.index, self.rest, *self.features.values())
        return sum(t.numel() * t.element_size() for t in tensors)


def compress_outputs(
    logits: Float[Tensor, "tokens vocabulary"], k: int, features: Mapping[int, Tensor] | None = None
) -> TeacherOutputs:
    """A teacher's outputs in a few bytes a token: 6 k + 2, and two a number of a feature."""
    found = logits.detach().float().log_softmax(-1)
    values, index = found.topk(min(k, found.shape[-1]), dim=-1)
    held = {layer: t.detach().to(torch.float16) for layer, t in (features or {}).items()}
    return TeacherOutputs(
        values.to(torch.float16), index.to(torch.int32), _rest(values).to(torch.float16), held
    )


def _rest(values: Tensor) -> Tensor:
    """log(1 - sum exp(values)), no lower than FLOOR."""
    mass = values.float().exp().sum(-1).clamp(max=1.0)
    return torch.log1p(-mass.clamp(max=1 - 1e-7)).clamp(min=FLOOR)


def divergence(logits: Float[Tensor, "tokens vocabulary"], kept: TeacherOutputs) -> Float[Tensor, ""]:
    """KL(teacher || student) a token over the kept outcomes and the rest."""
    student = logits.float().log_softmax(-1)
    mine = student.gather(-1, kept.index.long())
    both = torch.cat([mine, _rest(mine)[..., None]], -1)
    teacher = torch.cat([kept.values.float(), kept.rest.float()[..., None]], -1)
    teacher = teacher.log_softmax(-1)  # 16 bits do not sum to one
    return (teacher.exp() * (teacher - both)).sum(-1).mean()


def direction_error(features: Mapping[int, Tensor], kept: TeacherOutputs) -> Float[Tensor, ""]:
    """One less the cosine between full-precision and ternary features, over layers and tokens."""
    apart = [
        1 - F.cosine_similarity(features[layer].float(), held.float(), dim=-1).mean()
        for layer, held in kept.features.items()
    ]
    return torch.stack(apart).mean()


def feature_error(features: Mapping[int, Tensor], kept: TeacherOutputs) -> Float[Tensor, ""]:
    """Squared distance over the teacher's own size, over layers."""
    apart = []
    for layer, held in kept.features.items():
        target = held.float()
        apart.append((features[layer].float() - target).square().mean() / target.square().mean())
    return torch.stack(apart).mean()
