"""From hidden states to losses and scores.

The logits of a language model are its largest tensor (tokens x vocabulary), and nobody needs them
kept: `HeadLoss` goes through the labelled tokens in slices, takes each slice's loss and its
gradient at once from one decode of the head, and keeps only (tokens x width).
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.layers import Adapted, Frozen

IGNORED = -100
_SLICE = 2**21  # logits alive at a time


class Batch(Protocol):
    """What a task's batch offers (`tasks.base.Batch`)."""

    @property
    def ids(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def target(self) -> Tensor: ...


class HeadLoss(torch.autograd.Function):
    """Per-token negative log-likelihood of a frozen head; the gradient is exact."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, frozen: Frozen, target: Tensor) -> Tensor:
        weight = frozen.weight(hidden.dtype)
        slope = torch.empty_like(hidden) if hidden.requires_grad else None
        rows = max(64, _SLICE // len(weight))
        losses = []
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = F.linear(hidden[part], weight).float()
            total = logits.logsumexp(-1)
            picked = logits.gather(1, target[part, None]).squeeze(1)
            losses.append(total - picked)
            if slope is not None:
                share = logits.sub_(total[:, None]).exp_()
                share.scatter_add_(1, target[part, None], -torch.ones_like(picked)[:, None])
                slope[part] = share.to(hidden.dtype) @ weight
        if slope is not None:
            ctx.save_for_backward(slope)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return slope * grad[:, None].to(slope.dtype), None, None


def token_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(loss of every labelled token, number of labelled tokens in every example)."""
    labelled = batch.target != IGNORED
    # Padding is on the right, where a causal model cannot see it: no mask is needed.
    body: nn.Module = model.base_model  # type: ignore[assignment]
    hidden = body(input_ids=batch.ids, use_cache=False).last_hidden_state[labelled]
    target = batch.target[labelled]
    head = model.get_output_embeddings()  # type: ignore[operator]
    if isinstance(head, Adapted) and head.adapter is None and head.bias is None:
        losses = HeadLoss.apply(hidden, head.frozen, target)
    else:
        losses = F.cross_entropy(head(hidden).float(), target, reduction="none")
    return losses, labelled.sum(1)


def class_logits(model: nn.Module, batch: Batch) -> Tensor:
    return model(input_ids=batch.ids, attention_mask=batch.mask).logits.float()


Kind = Literal["language", "classification"]


def training_loss(model: nn.Module, kind: Kind, batch: Batch) -> tuple[Tensor, int]:
    """(summed loss, what it is summed over): tokens, or sentences."""
    if kind == "language":
        losses, counts = token_losses(model, batch)
        return losses.sum(), int(counts.sum())
    loss = F.cross_entropy(class_logits(model, batch), batch.target, reduction="sum")
    return loss, len(batch.target)


def labels_in(kind: Kind, batch: Batch) -> int:
    """How many terms `training_loss` sums, without running the model."""
    return int((batch.target != IGNORED).sum()) if kind == "language" else len(batch.target)


@torch.no_grad()
def scores(model: nn.Module, kind: Kind, batch: Batch) -> tuple[list[float], list[int], float]:
    """Per example (sum, count), whose ratio over all examples is the metric; and the summed loss.

    Language: summed token losses and tokens. Classification: 1 where right, and 1.
    """
    if kind == "language":
        losses, counts = token_losses(model, batch)
        # float64 on the CPU: Apple's GPU has no such type, and a metric is worth it.
        pieces = losses.double().cpu() if losses.device.type != "mps" else losses.cpu().double()
        sums = torch.stack([piece.sum() for piece in pieces.split(counts.tolist())])
        return sums.tolist(), counts.tolist(), float(sums.sum())
    logits = class_logits(model, batch)
    right = (logits.argmax(-1) == batch.target).float().tolist()
    loss = F.cross_entropy(logits, batch.target, reduction="sum")
    return right, [1] * len(right), float(loss)
