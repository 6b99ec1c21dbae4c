"""The evolutionary search that plans are compared with, on a problem with a known answer."""

from __future__ import annotations

import random
from collections.abc import Mapping
from importlib import import_module
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.core.spec import Site
from lowbit.planner.knapsack import Option

evolution: Any = import_module("peers.evolution")
Settings: Any = evolution.Settings


def ladders(sites: int) -> dict[str, list[Option]]:
    return {
        f"m{i}": [
            Option(f"m{i}", f"int{bits}@64", 0, 0.0, bits * (1 + i % 2)) for bits in (2, 4, 8)
        ]
        for i in range(sites)
    }


def damage(genome: Mapping[str, int], weights: list[float]) -> float:
    """Neighbours below the top make each other worse, so sites do not add up."""
    own = [w * 4.0**-place for w, place in zip(weights, genome.values(), strict=True)]
    return sum(own) + sum(a * b for a, b in pairwise(own))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 60))
def test_the_search_keeps_to_its_budget_and_never_gets_worse(seed: int, limit: int) -> None:
    steps = ladders(6)
    source = random.Random(seed)
    weights = [10 ** source.uniform(-1, 1) for _ in steps]
    best: list[float] = []
    found = evolution.evolve(
        steps, evolution.uniform(steps, limit), limit, lambda g, stage: damage(g, weights),
        Settings(8), seed, lambda generation, value: best.append(value),
    )  # fmt: skip
    assert evolution.size_of(steps, found) <= limit
    assert best == sorted(best, reverse=True)
    assert best[-1] == damage(found, weights)


def test_the_search_comes_near_the_best_of_all_plans() -> None:
    steps, limit = ladders(6), 36
    source = random.Random(1)
    weights = [10 ** source.uniform(-1, 1) for _ in steps]
    plans = [dict(zip(steps, places, strict=True)) for places in product(range(3), repeat=6)]
    fitting = [damage(p, weights) for p in plans if evolution.size_of(steps, p) <= limit]
    start = evolution.uniform(steps, limit)
    found = evolution.evolve(
        steps, start, limit, lambda g, stage: damage(g, weights), Settings(40), 0
    )
    assert damage(found, weights) <= 1.05 * min(fitting) < damage(start, weights)


def test_a_budget_below_the_smallest_uniform_plan_is_refused() -> None:
    with pytest.raises(SystemExit, match="no uniform plan fits"):
        evolution.uniform(ladders(4), 5)


def test_adapters_count_and_embeddings_have_none() -> None:
    sites = (Site("block", "ffn", (64, 128), 0), Site("embed", "embedding", (64, 128)))
    found = evolution.ladders_of(sites, ["nf4@64", "int2@64"], 4)
    assert [o.format for o in found["block"]] == ["int2@64", "nf4@64"]
    block, embed = found["block"][0], found["embed"][0]
    assert (block.rank, embed.rank) == (4, 0)
    assert block.stored - embed.stored == 4 * 4 * (64 + 128)
