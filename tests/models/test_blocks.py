"""A model run block after block gives what the whole model gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers.models import CASES, batch_of, opened, some_ids

from lowbit.models.blocks import Blocks
from lowbit.models.packed_attention import Segments
from lowbit.models.skeleton import Kind
from lowbit.train.losses import hidden_of

Folder = Callable[[str], Path]


@pytest.mark.parametrize(("family", "kind"), CASES)
@torch.no_grad()
def test_block_after_block_is_the_whole_model(family: str, kind: Kind, tiny_model: Folder) -> None:
    start = opened(tiny_model(family), kind)
    model = start.model().float().eval()
    ids = some_ids(2, 9)
    batch = batch_of(ids, ids if kind == "language" else torch.zeros(2, dtype=torch.long))
    whole = hidden_of(model, batch)[0]
    blocks, segments = Blocks(model, start.sites), Segments(batch.lengths, batch.ids.device)
    hidden, arguments = blocks.first_inputs(batch.ids, segments)
    for depth in range(len(blocks)):
        hidden = blocks.run(depth, hidden, arguments)
    torch.testing.assert_close(blocks.after(batch.ids, segments, hidden), whole)
    torch.testing.assert_close(hidden_of(model, batch)[0], whole)  # and all blocks are back
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_blocks_come_back_after_an_error(tiny_model: Folder) -> None:
    start = opened(tiny_model("llama"), "language")
    blocks = Blocks(start.model(), start.sites)
    count = len(blocks)
    inside = -1
    with suppress(RuntimeError), blocks.absent():
        inside = len(blocks)
        raise RuntimeError
    assert inside == 0
    assert len(blocks) == count
    assert blocks.name(1) == "model.layers.1"
