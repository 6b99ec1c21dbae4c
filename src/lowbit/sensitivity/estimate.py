"""How long measuring takes and how much memory, from the shapes of a model alone. No weights.

Every phase is counted in products of fp32 numbers, as the code runs them; a machine's rate turns
them into seconds. Memory is the largest of four stages, and what all of them hold. Three constants
make both agree with what SmolLM2-135M took on one idle machine; nothing larger was measured yet
(docs/performance.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from time import perf_counter

import torch

from lowbit.core.errors import UserError
from lowbit.core.spec import BLOCK_ROLES, Site
from lowbit.curvature.head_slopes import LARGE
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.model_outputs import MAX_LOGITS
from lowbit.curvature.passes import MAX_TOKENS
from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.anchor import EVERY, UNIFORM_FROM_BITS, leading
from lowbit.sensitivity.table import MeasureRequest

EIGEN = 15.0
"""Products per n^3 of an eigenvalue problem, by its time."""
ROUNDING = 5000.0
"""Products that storing one weight in a format takes the time of."""
EFFICIENCY = 0.6
"""The share of a machine's rate that is reached, with small products, softmax and reading."""
FIXED, SLACK = 250_000_000, 1.4
"""Bytes of text, tokenizer and freed memory that is kept; and what temporaries add to the rest."""
LENGTHS_TRIED = 7
"""Lengths tried for a step of a rank."""


@dataclass(frozen=True)
class MeasuringCost:
    """Seconds by phase, and the most bytes above an interpreter that has opened the model."""

    seconds: dict[str, float]
    memory: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class _Shape:
    """What the counts need to know about a model."""

    sites: tuple[Site, ...]
    width: int
    depth: int
    tokens: int
    longest: int

    @property
    def blocks(self) -> list[Site]:
        return [site for site in self.sites if site.role in BLOCK_ROLES]

    @property
    def body(self) -> float:
        """Products of one pass through all blocks, attention included."""
        attention = 2.0 * self.depth * self.width * self.longest
        return self.tokens * (2.0 * sum(map(_numbers, self.blocks)) + attention)

    @property
    def head(self) -> float:
        """Products of the head over all tokens."""
        return 2.0 * self.tokens * self.vocabulary * self.width

    @property
    def vocabulary(self) -> int:
        return max((s.shape[0] for s in self.sites if s.role not in BLOCK_ROLES), default=0)


def estimate_measuring(
    sites: Sequence[Site],
    request: MeasureRequest,
    tokens: int,
    longest: int,
    rate: float,
) -> MeasuringCost:
    """The cost of a table: `tokens` of text in sequences of up to `longest`, on a machine that does
    `rate` products a second. Expensive predictors (`samples`, `exact`, `walk`) are not counted."""
    blocks = [site for site in sites if site.role in BLOCK_ROLES]
    depth = len({site.depth for site in blocks})
    width = min(site.shape[1] for site in sites)
    shape = _Shape(tuple(sites), width, depth, tokens, longest)
    work = {
        "reference": shape.body + shape.head,
        "gradients": _walk(shape),
        "formats at each site": _sites(shape, request),
        "plans": _joint(shape, request),
    }
    if request.costed:
        work["formats, run"] = _anchored(shape, request)
        work["ranks"] = LENGTHS_TRIED * (shape.body + shape.head)  # two ranks, half the text
    seconds = {phase: products / (EFFICIENCY * rate) for phase, products in work.items()}
    return MeasuringCost(seconds, _memory(shape, request))


def check_memory(model: MeasuredModel, request: MeasureRequest, free: int) -> None:
    """Reject text that takes more memory than is free, and say how much text would fit."""
    longest = max(len(batch.ids) for batch in model.batches)
    tokens = sum(len(batch.ids) for batch in model.batches)

    def memory(count: int) -> int:
        return estimate_measuring(model.sites, request, count, longest, 1.0).memory

    need = memory(tokens)
    if need <= free:
        return
    each = (need - memory(0)) / max(1, tokens)
    fitting = int((free - memory(0)) / each) if each > 0 else 0
    advice = (
        f"use fewer tokens, {fitting:,} for instance" if fitting > 0 else "it needs more memory"
    )
    raise UserError(
        f"measuring on {tokens:,} tokens takes about {need / 1e9:,.1f} GB, and {free / 1e9:,.1f} "
        f"GB are free: {advice}"
    )


def measured_rate() -> float:
    """fp32 products a second on this machine, from a product of the size that measuring has."""
    x, weight = torch.randn(512, 1024), torch.randn(1024, 1024)
    best = 0.0
    for _ in range(5):
        start = perf_counter()
        for _ in range(4):
            torch.nn.functional.linear(x, weight)
        best = max(best, 8.0 * 512 * 1024 * 1024 / (perf_counter() - start))
    return best


def _numbers(site: Site) -> int:
    return site.shape[0] * site.shape[1]


def _walk(shape: _Shape) -> float:
    """Two forward passes, one more with gradients, two backward; K-FAC's factors; the head."""
    factors = sum(n**2 for site in shape.blocks for n in site.shape if n <= LARGE)
    return 7 * shape.body + 2.0 * shape.tokens * factors + 6 * shape.head


def _sites(shape: _Shape, request: MeasureRequest) -> float:
    total = ROUNDING * len(request.formats) * sum(map(_numbers, shape.sites))
    for site in shape.blocks:
        rows, columns = site.shape
        small, large = min(site.shape), max(site.shape)
        total += EIGEN * (columns**3 + (rows**3 if rows <= LARGE else 0))
        whitening = 2.0 * rows * columns * (columns + (rows if rows <= LARGE else 1))
        gram = 2.0 * small**2 * large
        total += len(request.formats) * (2 * whitening + gram + EIGEN / 3 * small**3)
        if request.costed:
            total += 3 * whitening + gram + 2 * EIGEN * small**3
    return total


def _anchored(shape: _Shape, request: MeasureRequest) -> float:
    """Uniform passes, embeddings alone, and each block alone for few bits."""
    rounding = ROUNDING * sum(map(_numbers, shape.sites))
    run = shape.body + 2 * shape.head
    others = len([site for site in shape.sites if site.role not in BLOCK_ROLES])
    runs = set(leading(request.formats).values())
    few = [text for text in runs if bits_of(parse(text)) < UNIFORM_FROM_BITS]
    alone = len(few) * shape.depth * (shape.body / 2 + 2 * shape.head) / EVERY
    whole = (len(runs) - len(few) + others * len(runs)) * run
    return whole + alone + len(runs) * rounding


def _joint(shape: _Shape, request: MeasureRequest) -> float:
    """Each plan stored, and shifted both ways."""
    plans = len(request.joint) + (len(request.formats) if request.uniform else 0)
    one = shape.body + 2 * shape.head + ROUNDING * sum(map(_numbers, shape.sites))
    return 3 * plans * one


def _memory(shape: _Shape, request: MeasureRequest) -> int:
    """The largest stage, and what all of them hold."""
    outside = [site for site in shape.sites if site.role not in BLOCK_ROLES]
    by_depth = [list(g) for _, g in groupby(shape.blocks, key=lambda site: site.depth)]
    block = max((sum(map(_numbers, group)) for group in by_depth), default=0)
    factors = max((_factors(group) for group in by_depth), default=0)
    state = 4 * shape.tokens * shape.width
    every = max(1, math.isqrt(max(1, shape.depth)))
    ranks = (max(request.ranks) + min(request.ranks)) if request.costed else 0
    always = 2 * sum(map(_numbers, outside)) + 2 * state
    always += 4 * ranks * sum(sum(site.shape) for site in shape.blocks)
    widest = max(max(site.shape) for site in shape.blocks) if shape.blocks else 0
    heads = max(map(_numbers, outside), default=0)
    sums = 8 * sum(map(_numbers, outside))  # the head's, which a tied embedding finishes
    kept = state * (-(-shape.depth // every) + 3)
    activations = 4 * MAX_TOKENS * 4 * widest + 4 * shape.longest**2
    stages = {
        "run": 8 * heads + 16 * MAX_LOGITS + 2 * state + 4 * block + activations,
        "head": kept + sums,
        "block": kept + state * every + sums + 28 * block + 4 * factors + activations,
        "formats": kept + sums + 16 * block + 8 * factors,
    }
    return FIXED + round(SLACK * (always + max(stages.values())))


def _factors(sites: Sequence[Site]) -> int:
    """Numbers of K-FAC's factors of one block."""
    return sum(n**2 if n <= LARGE or n == s.shape[1] else n for s in sites for n in s.shape)
