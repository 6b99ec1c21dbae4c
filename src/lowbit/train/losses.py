"""Losses and scores of each kind of task, from hidden states.

The logits of a language model are its largest tensor (tokens x vocabulary). `HeadLoss` replaces
them: it decodes the head once, goes through the labelled tokens in slices and computes each slice's
loss together with its gradient. It keeps only a tensor of tokens x width, and has no second
derivative.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.layers.frozen import FrozenEmbedding, FrozenMatrix
from lowbit.layers.linear import AdaptedLinear
from lowbit.layers.matmul import padded_rows
from lowbit.models import packed_attention
from lowbit.models.family import family_of
from lowbit.models.packed_attention import Segments
from lowbit.quant.byte_counts import LOGITS

IGNORED = -100


class TokenBatch(Protocol):
    """The parts of a task's batch that losses need (`tasks.base.Batch`)."""

    @property
    def ids(self) -> Tensor: ...
    @property
    def target(self) -> Tensor: ...
    @property
    def lengths(self) -> tuple[int, ...]: ...
    @property
    def labels(self) -> tuple[int, ...]: ...


class HeadLoss(torch.autograd.Function):
    """Per-token negative log-likelihood of a frozen head; the gradient is exact."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, frozen: FrozenMatrix, target: Tensor) -> Tensor:
        weight = frozen.operand(hidden.dtype)
        slope = torch.empty_like(hidden) if hidden.requires_grad else None
        rows = max(64, LOGITS // frozen.shape[0])
        losses = []
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = weight.product(hidden[part]).float()
            labels = target[part, None]
            largest = logits.amax(1, keepdim=True)
            label_logits = logits.gather(1, labels) - largest
            probabilities = logits.sub_(largest).exp_()
            total = probabilities.sum(1, keepdim=True)
            losses.append((total.log() - label_logits).squeeze(1))
            if slope is not None:
                probabilities.div_(total)
                probabilities.scatter_add_(1, labels, -torch.ones_like(label_logits))
                slope[part] = weight.input_gradient(probabilities.to(hidden.dtype))
        if slope is not None:
            ctx.save_for_backward(slope)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return slope * grad[:, None].to(slope.dtype), None, None


def token_losses(model: nn.Module, batch: TokenBatch) -> Tensor:
    """The loss of every labelled token, example after example."""
    hidden, _ = hidden_of(model, batch)
    target = batch.target
    if sum(batch.labels) < len(target):
        labelled = target != IGNORED
        hidden, target = hidden[labelled], target[labelled]
    head = model.get_output_embeddings()  # type: ignore[operator]
    if isinstance(head, AdaptedLinear) and head.adapter is None and head.bias is None:
        return HeadLoss.apply(hidden, head.frozen, target)
    return F.cross_entropy(head(hidden).float(), target, reduction="none")


def class_logits(model: nn.Module, batch: TokenBatch) -> Tensor:
    """(examples, classes) in fp32."""
    hidden, segments = hidden_of(model, batch)
    family = family_of(model.config.model_type)  # type: ignore[union-attr, arg-type]
    return family.classify(model, hidden, segments).float()


def hidden_of(model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Segments]:
    packed_attention.use(model)
    segments = Segments(batch.lengths, batch.ids.device)
    body: nn.Module = model.base_model  # type: ignore[assignment]
    more = _filling(model, segments)
    if not more:
        return packed_attention.hidden_states(body, batch.ids, segments), segments
    filled = Segments((*batch.lengths, more), batch.ids.device)
    ids = F.pad(batch.ids, (0, more))
    return packed_attention.hidden_states(body, ids, filled)[: len(batch.ids)], segments


def _filling(model: nn.Module, segments: Segments) -> int:
    """How many tokens of a made-up example are added, so that few numbers of tokens occur.

    oneDNN, which multiplies bf16 on a CPU, keeps a kernel for each number of rows, and making one
    takes longer than a small product. No other example sees the added one. Examples of equal
    length, such as a text's windows, attend faster as they are.
    """
    if segments.count > 1 and segments.equal_lengths:
        return 0
    tokens, embedding = sum(segments.lengths), model.get_input_embeddings()  # type: ignore[operator]
    if not isinstance(embedding, FrozenEmbedding) or embedding.compute != torch.bfloat16:
        return 0
    return padded_rows(tokens) - tokens if embedding.frozen.codes.device.type == "cpu" else 0


Kind = Literal["language", "classification"]


def training_loss(model: nn.Module, kind: Kind, batch: TokenBatch) -> tuple[Tensor, int]:
    """(summed loss, number of tokens or sentences)."""
    if kind == "language":
        return token_losses(model, batch).sum(), sum(batch.labels)
    loss = F.cross_entropy(class_logits(model, batch), batch.target, reduction="sum")
    return loss, len(batch.target)


@torch.no_grad()
def scores(model: nn.Module, kind: Kind, batch: TokenBatch) -> tuple[list[float], list[int], float]:
    """(sums, counts, summed loss), the first two per example; the metric is their ratio of sums.

    Language: the summed token losses, and the number of tokens. Classification: 1 if the predicted
    class is correct, else 0; the count is 1.
    """
    if kind == "language":
        losses, counts = token_losses(model, batch), list(batch.labels)
        # Metrics are summed in float64, which Apple's GPU lacks.
        pieces = losses.double().cpu() if losses.device.type != "mps" else losses.cpu().double()
        sums = torch.stack([piece.sum() for piece in pieces.split(counts)])
        return sums.tolist(), counts, float(sums.sum())
    logits = class_logits(model, batch)
    correct = (logits.argmax(-1) == batch.target).float().tolist()
    loss = F.cross_entropy(logits, batch.target, reduction="sum")
    return correct, [1] * len(correct), float(loss)
