"""Distillation: train towards the outputs of the unquantised model.

The unquantised model (the teacher) reads the training text once, before the plan is installed. Its
outputs are compressed and stored per sequence (`train.teacher_outputs`), so only one model is in
memory while training. The loss of a step is the usual loss of the tokens plus the distance of the
student's logits and features from the teacher's, per token.
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
from lowbit.train.losses import IGNORED, Kind, TokenBatch
from lowbit.train.teacher_outputs import TeacherOutputs


@dataclass(frozen=True)
class Distiller:
    """The teacher's outputs by sequence, and the weights of the losses."""

    distil: Distil
    teacher: Mapping[bytes, TeacherOutputs]

    @property
    def nbytes(self) -> int:
        return sum(outputs.nbytes for outputs in self.teacher.values())

    def loss(self, model: nn.Module, kind: Kind, batch: TokenBatch) -> tuple[Tensor, int]:
        """`losses.training_loss` plus the distance from the teacher, per token."""
        hidden, features = outputs(model, batch, self.distil.layers)
        logits = model.get_output_embeddings()(hidden)  # type: ignore[operator]
        own = F.cross_entropy(logits.float(), batch.target, reduction="sum", ignore_index=IGNORED)
        pieces = batch.ids.split(list(batch.lengths))
        teacher = concatenate([self.teacher[key(piece)] for piece in pieces], hidden.device)
        tokens = sum(batch.labels)
        total = own
        if self.distil.logits:
            total = total + tokens * self.distil.logits * teacher_outputs.divergence(
                logits, teacher
            )
        if self.distil.off:
            total = total + tokens * self.distil.off * teacher_outputs.direction_error(
                features, teacher
            )
        if self.distil.features:
            total = total + tokens * self.distil.features * teacher_outputs.feature_error(
                features, teacher
            )
        return total, tokens


def outputs(
    model: nn.Module, batch: TokenBatch, layers: Sequence[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """The body's last hidden states (tokens, width), and those after the blocks `layers`."""
    packed_attention.use(model)
    segments = Segments(batch.lengths, batch.ids.device)
    body: nn.Module = model.base_model  # type: ignore[assignment]
    return packed_attention.with_features(body, batch.ids, segments, layers)


@torch.no_grad()
def run_teacher(
    model: nn.Module, part: Sequence[Example], distil: Distil, size: int, device: torch.device
) -> Distiller:
    """Compute and compress the unquantised model's outputs for every sequence."""
    model.eval()
    teacher: dict[bytes, TeacherOutputs] = {}
    for start in range(0, len(part), size):
        batch = to_device(collate(part, range(start, min(start + size, len(part)))), device)
        hidden, features = outputs(model, batch, distil.layers)
        logits = model.get_output_embeddings()(hidden).float()  # type: ignore[operator]
        lengths = list(batch.lengths)
        split = {layer: states.split(lengths) for layer, states in features.items()}
        for i, (ids, rows) in enumerate(
            zip(batch.ids.split(lengths), logits.split(lengths), strict=True)
        ):
            sequence_features = {layer: pieces[i] for layer, pieces in split.items()}
            compressed = teacher_outputs.compress_outputs(rows, distil.top, sequence_features)
            teacher[key(ids)] = compressed.cpu()
    return Distiller(distil, teacher)


def key(ids: Tensor) -> bytes:
    """A sequence's key: its token ids as bytes."""
    return ids.cpu().numpy().tobytes()


def concatenate(sequences: Sequence[TeacherOutputs], device: torch.device) -> TeacherOutputs:
    """The outputs of several sequences one after another, on a device."""
    layers = sequences[0].features
    return TeacherOutputs(
        torch.cat([s.values for s in sequences]).to(device),
        torch.cat([s.index for s in sequences]).to(device),
        torch.cat([s.rest for s in sequences]).to(device),
        {n: torch.cat([s.features[n] for s in sequences]).to(device) for n in layers},
    )


def teacher_nbytes(
    distil: Distil, part: Sequence[Example], width: int, blocks: int, kind: Kind
) -> int:
    """Bytes that the teacher's outputs will take; `UserError` if they exceed `distil.cache`."""
    if not distil.enabled:
        return 0
    if kind != "language":
        raise UserError(
            "distil needs a language task: the teacher has no trained head for classification"
        )
    beyond = [layer for layer in distil.layers if not 1 <= layer <= blocks]
    if beyond:
        raise UserError(f"distil.layers {beyond}: this model has blocks 1 to {blocks}")
    needed = distil.nbytes(sum(len(example.ids) for example in part), width)
    if needed > distil.cache:
        raise UserError(
            f"the teacher's outputs for the training text take {needed / 1e6:,.0f} MB, but "
            f"distil.cache allows {distil.cache / 1e6:,.0f} MB: raise it, or lower distil.top, "
            "or compare fewer layers"
        )
    return needed
