"""Distillation: the unquantised model reads the training text once, then makes room.

What it says is kept by sequence, in bounded space (`ternary.teacher`), before the plan is
installed; during training there is one model only. The loss of a step is its tokens' own loss, plus
what the student's logits and features differ from the teacher's, a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.core.errors import UserError
from lowbit.core.schedules import Distil
from lowbit.models import packed_attention
from lowbit.models.packed_attention import Segments
from lowbit.tasks.base import Example
from lowbit.tasks.batching import collate
from lowbit.train import teacher_outputs
from lowbit.train.evaluate import to_device
from lowbit.train.losses import IGNORED, Batch, Kind
from lowbit.train.teacher_outputs import TeacherOutputs


@dataclass(frozen=True)
class Distiller:
    """What the teacher said, and how much it counts."""

    distil: Distil
    said: Mapping[bytes, TeacherOutputs]

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self.said.values())

    def loss(self, model: nn.Module, kind: Kind, batch: Batch) -> tuple[Tensor, int]:
        """As `losses.training_loss`, with the teacher's part a token."""
        hidden, features = outputs(model, batch, self.distil.layers)
        logits = model.get_output_embeddings()(hidden)  # type: ignore[operator]
        own = F.cross_entropy(logits.float(), batch.target, reduction="sum", ignore_index=IGNORED)
        pieces = batch.ids.split(list(batch.lengths))
        kept = concatenate([self.said[key(piece)] for piece in pieces], hidden.device)
        tokens = sum(batch.labels)
        total = own
        if self.distil.logits:
            total = total + tokens * self.distil.logits * teacher_outputs.divergence(logits, kept)
        if self.distil.off:
            total = total + tokens * self.distil.off * teacher_outputs.direction_error(features, kept)
        if self.distil.features:
            total = total + tokens * self.distil.features * teacher_outputs.feature_error(
                features, kept
            )
        return total, tokens


def outputs(
    model: nn.Module, batch: Batch, layers: Sequence[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """(tokens, width) of the body, and what it holds after some of its blocks."""
    packed_attention.use(model)
    segments = Segments(batch.lengths, batch.ids.device)
    body: nn.Module = model.base_model  # type: ignore[assignment]
    return packed_attention.with_features(body, batch.ids, segments, layers)


@torch.no_grad()
def run_teacher(
    model: nn.Module, part: Sequence[Example], distil: Distil, size: int, device: torch.device
) -> Distiller:
    """Let a model as it was read say what it has to say of every sequence."""
    model.eval()
    said: dict[bytes, TeacherOutputs] = {}
    for start in range(0, len(part), size):
        batch = to_device(collate(part, range(start, min(start + size, len(part)))), device)
        hidden, features = outputs(model, batch, distil.layers)
        logits = model.get_output_embeddings()(hidden).float()  # type: ignore[operator]
        lengths = list(batch.lengths)
        split = {layer: held.split(lengths) for layer, held in features.items()}
        for i, (ids, rows) in enumerate(
            zip(batch.ids.split(lengths), logits.split(lengths), strict=True)
        ):
            mine = {layer: pieces[i] for layer, pieces in split.items()}
            said[key(ids)] = teacher_outputs.compress_outputs(rows, distil.top, mine).cpu()
    return Distiller(distil, said)


def key(ids: Tensor) -> bytes:
    """A sequence's own name."""
    return ids.cpu().numpy().tobytes()


def concatenate(kept: Sequence[TeacherOutputs], device: torch.device) -> TeacherOutputs:
    """Several sequences end to end, where they are needed."""
    layers = kept[0].features
    return TeacherOutputs(
        torch.cat([one.values for one in kept]).to(device),
        torch.cat([one.index for one in kept]).to(device),
        torch.cat([one.rest for one in kept]).to(device),
        {n: torch.cat([one.features[n] for one in kept]).to(device) for n in layers},
    )


def teacher_nbytes(distil: Distil, part: Sequence[Example], width: int, blocks: int, kind: Kind) -> int:
    """Bytes that the teacher will take; refused where that is too much, or senseless."""
    if not distil.wanted:
        return 0
    if kind != "language":
        raise UserError(
            "distil: a classifier's head is new, so the unquantised model has nothing to teach"
        )
    beyond = [layer for layer in distil.layers if not 1 <= layer <= blocks]
    if beyond:
        raise UserError(f"distil.layers {beyond}: this model has blocks 1 to {blocks}")
    needed = distil.nbytes(sum(len(example.ids) for example in part), width)
    if needed > distil.cache:
        raise UserError(
            f"what the teacher says of the training text takes {needed / 1e6:,.0f} MB, where "
            f"distil.cache allows {distil.cache / 1e6:,.0f} MB: raise it, or lower distil.top, "
            "or compare fewer layers"
        )
    return needed
