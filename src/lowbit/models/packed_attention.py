"""Attention over examples packed one after another, without padding.

A batch is a single row of tokens, and `Segments` holds the lengths of its examples. All other parts
of a transformer work on single tokens and need no change. Attention has three cases:

- Examples of equal length are an ordinary batch.
- On a CPU, examples of other lengths attend one after another. A call costs little there, and a
  padding token costs as much as a real one.
- On other devices, and with dropout on attention weights, they are padded inside `attend`. This
  costs four gathers and saves the padding in all other layers.

transformers selects attention by name and passes the model's keyword arguments on to it, including
`segments`. Without `segments`, transformers' own attention runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.models import dropout as dropping
from lowbit.models.dropout import dropout as drop

NAME = "lowbit_segments"
SEQUENTIAL_DEVICES = ("cpu",)
"""Device types on which examples of different lengths attend one after another."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The lengths of packed examples."""

    lengths: tuple[int, ...]
    device: torch.device

    @cached_property
    def positions(self) -> Tensor:
        """(tokens,): each token's position in its own example."""
        return torch.cat([torch.arange(n) for n in self.lengths]).to(self.device)

    @cached_property
    def first(self) -> Tensor:
        """(examples,): the index of each example's first token."""
        return self.last - torch.tensor(self.lengths, device=self.device) + 1

    @cached_property
    def last(self) -> Tensor:
        """(examples,): the index of each example's last token."""
        return torch.tensor(self.lengths, device=self.device).cumsum(0) - 1

    @property
    def count(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def equal_lengths(self) -> bool:
        return min(self.lengths) == self.longest

    @cached_property
    def places(self) -> Tensor:
        """(tokens,): each token's index when every example is padded to the longest."""
        line = torch.repeat_interleave(torch.tensor(self.lengths)).to(self.device)
        return line * self.longest + self.positions

    @cached_property
    def real(self) -> Tensor:
        """(examples, 1, 1, longest): True for a token, False for padding."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return (torch.arange(self.longest, device=self.device) < lengths[:, None])[:, None, None]


def use(model: nn.Module) -> None:
    """Switch a transformers model to this attention, and to the dropout of `models.dropout`."""
    config: Any = model.config
    if config._attn_implementation != NAME:
        _register()
        dropping.replace_dropout(model)
        model.set_attn_implementation(NAME)  # type: ignore[operator]


def hidden_states(body: nn.Module, ids: Tensor, segments: Segments) -> Tensor:
    """(tokens, width): the last hidden states of a model's body."""
    return _run_body(body, ids, segments).last_hidden_state[0]


def _run_body(body: nn.Module, ids: Tensor, segments: Segments, **more: Any) -> Any:
    return body(
        input_ids=ids[None],
        position_ids=segments.positions[None],
        # transformers uses a four-dimensional mask as it is, so it builds no tokens x tokens mask.
        attention_mask=torch.empty(1, 1, 0, 0, device=ids.device),
        use_cache=False,
        segments=segments,
        **more,
    )


def with_features(
    body: nn.Module, ids: Tensor, segments: Segments, layers: Sequence[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """`hidden_states`, and the hidden states after some blocks, counted from 1."""
    if not layers:
        return hidden_states(body, ids, segments), {}
    output = _run_body(body, ids, segments, output_hidden_states=True)
    return output.last_hidden_state[0], {n: output.hidden_states[n][0] for n in layers}


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """(1, heads, tokens, width) each -> (1, tokens, heads, width)."""
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    causal = bool(module.is_causal)
    window = rest.get("sliding_window")
    if not segments.equal_lengths and not dropout and query.device.type in SEQUENTIAL_DEVICES:
        return _one_by_one(query, key, value, segments, causal, window, scaling), None
    mask, causal = _mask(segments, causal, window)
    fold = _batched if segments.equal_lengths else _padded
    inputs = (fold(query, segments), fold(key, segments), fold(value, segments))
    if dropout:
        heads = _with_dropout(*inputs, mask, causal, scaling, dropout)
    else:
        heads = _attention(*inputs, mask, causal, scaling)
    heads = heads.transpose(1, 2)
    flat = heads.reshape(-1, *heads.shape[2:])
    return (flat if segments.equal_lengths else flat.index_select(0, segments.places))[None], None


def _one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    causal: bool,
    window: int | None,
    scaling: float | None,
) -> Tensor:
    """Attend example by example. Uses one split, because each slice would need a full gradient."""
    outputs = []
    parts = (t.split(segments.lengths, 2) for t in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        mask, is_causal = _mask(Segments((q.shape[2],), segments.device), causal, window)
        outputs.append(_attention(q, k, v, mask, is_causal, scaling).transpose(1, 2))
    return torch.cat(outputs, 1)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
) -> Tensor:
    """torch's attention, with grouped heads if there are fewer key than query heads."""
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, mask, 0.0, causal, scale=scaling, enable_gqa=grouped
    )


def _with_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
    rate: float,
) -> Tensor:
    """Attention with dropout on its weights, step by step: no fused CPU kernel supports that."""
    if query.shape[1] != key.shape[1]:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    if causal:
        mask = torch.ones(2 * query.shape[-2:-1], dtype=torch.bool, device=query.device).tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = (query * scale) @ key.transpose(-1, -2)
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return drop(weights.softmax(-1), rate) @ value


def _mask(segments: Segments, causal: bool, window: int | None) -> tuple[Tensor | None, bool]:
    """(mask, is_causal). Causal attention needs no mask for padding, which follows all tokens."""
    if causal and window and segments.longest > window:
        place = torch.arange(segments.longest, device=segments.device)
        behind = place[:, None] - place[None]
        return (behind >= 0) & (behind < window), False
    if causal or segments.equal_lengths:
        return None, causal
    return segments.real, False


def _batched(x: Tensor, segments: Segments) -> Tensor:
    """Equal lengths: a view (examples, heads, length, width)."""
    return x[0].unflatten(1, (segments.count, -1)).transpose(0, 1)


def _padded(x: Tensor, segments: Segments) -> Tensor:
    """Unequal lengths: a copy padded with zeros, (examples, heads, longest, width)."""
    tokens = x[0].transpose(0, 1)
    block = tokens.new_zeros(segments.count * segments.longest, *tokens.shape[1:])
    block = block.index_copy(0, segments.places, tokens)
    return block.unflatten(0, (segments.count, -1)).transpose(1, 2)
