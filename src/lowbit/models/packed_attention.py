"""Attention over examples packed one after another, without padding.

A batch is a single row of tokens, and `Segments` says where each example begins and ends. Every
other part of a transformer works on tokens one by one and needs to know nothing of it. Here,
examples of equal length are simply a batch. Others are taken one by one on a CPU, where a kernel's
call costs little and a padded place as much as a real one; elsewhere, and where attention's weights
are dropped, they are padded inside this one function, which costs four gathers and saves the
padding everywhere else.

transformers lets attention be chosen by name, and hands the keyword arguments of a model's call
down to it: that is how `segments` arrives. Without it, it is transformers' own attention.
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
APART = ("cpu",)
"""Kinds of devices on which examples of many lengths attend one by one."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Lengths of examples that lie one after another."""

    lengths: tuple[int, ...]
    device: torch.device

    @cached_property
    def positions(self) -> Tensor:
        """(tokens,): each token's place in its own example."""
        return torch.cat([torch.arange(n) for n in self.lengths]).to(self.device)

    @cached_property
    def first(self) -> Tensor:
        """(examples,): where each example's first token is."""
        return self.last - torch.tensor(self.lengths, device=self.device) + 1

    @cached_property
    def last(self) -> Tensor:
        """(examples,): where each example's last token is."""
        return torch.tensor(self.lengths, device=self.device).cumsum(0) - 1

    @property
    def count(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def alike(self) -> bool:
        return min(self.lengths) == self.longest

    @cached_property
    def places(self) -> Tensor:
        """(tokens,): each token's place when every example is padded to the longest."""
        line = torch.repeat_interleave(torch.tensor(self.lengths)).to(self.device)
        return line * self.longest + self.positions

    @cached_property
    def real(self) -> Tensor:
        """(examples, 1, 1, longest): True where a padded place holds a token."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return (torch.arange(self.longest, device=self.device) < lengths[:, None])[:, None, None]


def use(model: nn.Module) -> None:
    """Let a model of transformers attend within segments."""
    config: Any = model.config
    if config._attn_implementation != NAME:
        _register()
        dropping.use(model)
        model.set_attn_implementation(NAME)  # type: ignore[operator]


def hidden_states(body: nn.Module, ids: Tensor, segments: Segments) -> Tensor:
    """(tokens, width): the last hidden states of a model's body."""
    return _run_body(body, ids, segments).last_hidden_state[0]


def _run_body(body: nn.Module, ids: Tensor, segments: Segments, **more: Any) -> Any:
    return body(
        input_ids=ids[None],
        position_ids=segments.positions[None],
        # A mask of four dimensions is taken as ready: none of tokens squared is built.
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
    if not segments.alike and not dropout and query.device.type in APART:
        return _one_by_one(query, key, value, segments, causal, window, scaling), None
    mask, causal = _mask(segments, causal, window)
    fold = _batched if segments.alike else _padded
    inputs = (fold(query, segments), fold(key, segments), fold(value, segments))
    if dropout:
        heads = _with_dropout(*inputs, mask, causal, scaling, dropout)
    else:
        heads = _attention(*inputs, mask, causal, scaling)
    heads = heads.transpose(1, 2)
    flat = heads.reshape(-1, *heads.shape[2:])
    return (flat if segments.alike else flat.index_select(0, segments.places))[None], None


def _one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    causal: bool,
    window: int | None,
    scaling: float | None,
) -> Tensor:
    """Attend example by example. One split: a slice's gradient would be as long as the whole."""
    outputs = []
    parts = (t.split(segments.lengths, 2) for t in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        mask, still = _mask(Segments((q.shape[2],), segments.device), causal, window)
        outputs.append(_attention(q, k, v, mask, still, scaling).transpose(1, 2))
    return torch.cat(outputs, 1)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
) -> Tensor:
    """torch's own, for as many heads of keys as of queries or fewer."""
    shared = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, mask, 0.0, causal, scale=scaling, enable_gqa=shared
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
    """Attention spelled out, for weights that are dropped: no fused kernel of a CPU does that."""
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
    """(mask, whether it is causal besides). Padding on the right is what no causal token sees."""
    if causal and window and segments.longest > window:
        place = torch.arange(segments.longest, device=segments.device)
        behind = place[:, None] - place[None]
        return (behind >= 0) & (behind < window), False
    if causal or segments.alike:
        return None, causal
    return segments.real, False


def _batched(x: Tensor, segments: Segments) -> Tensor:
    """Equal lengths: a view (examples, heads, length, width)."""
    return x[0].unflatten(1, (segments.count, -1)).transpose(0, 1)


def _padded(x: Tensor, segments: Segments) -> Tensor:
    """Unequal lengths: tokens copied into a block padded with zeros, likewise shaped."""
    tokens = x[0].transpose(0, 1)
    block = tokens.new_zeros(segments.count * segments.longest, *tokens.shape[1:])
    block = block.index_copy(0, segments.places, tokens)
    return block.unflatten(0, (segments.count, -1)).transpose(1, 2)
