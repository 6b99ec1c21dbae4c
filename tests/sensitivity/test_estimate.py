"""Time and memory of measuring, counted from shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.sensitivity import Folder, tiny_measured
from transformers import AutoModelForCausalLM, LlamaConfig

from lowbit.core.errors import UserError
from lowbit.core.spec import Site
from lowbit.models.family import find_sites
from lowbit.sensitivity.estimate import check_memory, estimate_measuring, measured_rate
from lowbit.sensitivity.table import MeasureRequest

PLAN = MeasureRequest(("int8@64", "nf4@64"), samples=0, uniform=False, exact=False, costed=True)


def sites_of(width: int, blocks: int, vocabulary: int) -> tuple[Site, ...]:
    """A model on the meta device: no weights."""
    config = LlamaConfig(
        hidden_size=width, intermediate_size=3 * width, num_hidden_layers=blocks,
        num_attention_heads=8, vocab_size=vocabulary, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        return find_sites(AutoModelForCausalLM.from_config(config))


def test_time_and_memory_grow_with_everything_that_is_asked_for() -> None:
    small, deep = sites_of(256, 4, 1000), sites_of(256, 8, 1000)
    first = estimate_measuring(small, PLAN, 4096, 256, 1e11)
    longer = estimate_measuring(small, PLAN, 8192, 256, 1e11)
    deeper = estimate_measuring(deep, PLAN, 4096, 256, 1e11)
    three = replace(PLAN, formats=("int8@64", "nf4@64", "int3@64"))
    more = estimate_measuring(small, three, 4096, 256, 1e11)
    for other in (longer, deeper, more):
        assert other.total > first.total
        assert other.memory >= first.memory
    assert estimate_measuring(small, PLAN, 4096, 256, 2e11).total == pytest.approx(first.total / 2)
    assert set(first.seconds) >= {"reference", "gradients", "ranks"}


def test_memory_does_not_grow_with_the_number_of_formats() -> None:
    sites = sites_of(256, 4, 1000)
    many = replace(PLAN, formats=tuple(f"int{bits}@64" for bits in range(2, 9)))
    two, seven = (estimate_measuring(sites, each, 4096, 256, 1.0).memory for each in (PLAN, many))
    assert seven == two


def test_blocks_of_a_large_model_are_not_held_at_once() -> None:
    """From 8 to 32 blocks, memory grows by states and ranks only: by far less than the weights."""
    few, many = (sites_of(1024, blocks, 1000) for blocks in (8, 32))
    memory = [estimate_measuring(sites, PLAN, 4096, 256, 1.0).memory for sites in (few, many)]
    weights = [2 * sum(s.shape[0] * s.shape[1] for s in sites) for sites in (few, many)]
    assert memory[1] - memory[0] < (weights[1] - weights[0]) / 2


def test_text_that_does_not_fit_is_refused_with_what_would(tiny_model: Folder) -> None:
    model = tiny_measured(tiny_model("llama"))
    need = estimate_measuring(model.sites, PLAN, 36, 12, 1.0).memory
    check_memory(model, PLAN, need)
    with pytest.raises(UserError, match=r"measuring on 36 tokens takes about .* GB are free: use"):
        check_memory(model, PLAN, need - 4 * 32 * 10)
    with pytest.raises(UserError, match="it needs more memory"):
        check_memory(model, PLAN, 10)


def test_the_machines_rate_is_that_of_a_product() -> None:
    assert measured_rate() > 1e8
