"""The damage that plans rest on: formulas scaled to what running the stored model shows.

Formulas rank matrices well, but their nats are off. So the model is run, and the KL that it shows
is divided among matrices.

- From `UNIFORM_FROM_BITS` bits on, all block matrices are stored at once, and K-FAC divides.
- With fewer bits that breaks the model: its KL says nothing of a plan that uses the format in a few
  places. Then each block is stored alone, with all others exact, and Fisher's diagonal divides
  among the matrices of a block. Plans by it lost a tenth less than plans by K-FAC (ADR 27).
- Embeddings and heads are stored alone.

All blocks but one are as in the reference, so a pass for one block starts at that block, from the
states that the reference has there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lowbit.core.errors import run_error_prefix
from lowbit.core.spec import BLOCK_ROLES
from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.measured_model import MeasuredModel, OnProgress, shifted
from lowbit.sensitivity.model_outputs import Outputs
from lowbit.sensitivity.table import Damage

UNIFORM_FROM_BITS = 5.0
"""From this many bits on, all blocks are stored at once."""
EVERY = 4
"""Every fourth sequence is enough to divide damage among blocks."""

Costs = dict[str, dict[str, float]]
"""Nats by site and format."""
Damages = Mapping[str, Mapping[str, Damage]]


def anchored(
    model: MeasuredModel,
    formats: Sequence[str],
    reference: Outputs,
    damages: Damages,
    on_progress: OnProgress,
) -> Costs:
    """The cost of every site in every format."""
    costs: Costs = {site.name: {} for site in model.sites}
    few = [text for text in formats if bits_of(parse(text)) < UNIFORM_FROM_BITS]
    blocks = {s.depth for s in model.block_sites}
    if len(blocks) < 2 or None in blocks:
        few = []  # nothing to divide by depth, or matrices outside the blocks
    units = sum(model.counts)
    others = [[site] for site in model.sites if site.role not in BLOCK_ROLES]
    groups = [model.block_sites, *others] if model.block_sites else others
    for i, text in enumerate(formats):
        on_progress("formats", i, len(formats))
        for sites in groups:
            if sites is groups[0] and model.block_sites and text in few:
                continue
            formats_of = {site.name: text for site in sites}
            with run_error_prefix(text), shifted(model, model.errors(formats_of)):
                kl = sum(model.losses_and_kl(reference)[1]) / units
            parts = {site.name: damages[site.name][text].kfac for site in sites}
            _divide(costs, max(0.0, kl), parts, text)
    on_progress("formats", len(formats), len(formats))
    if few:
        for depth, text, kl in kl_of_blocks(model, few, on_progress):
            inside = [site.name for site in model.block_sites if site.depth == depth]
            _divide(costs, kl, {name: damages[name][text].fisher for name in inside}, text)
    return costs


def _divide(costs: Costs, kl: float, parts: Mapping[str, float], text: str) -> None:
    """Divide nats among sites in proportion to `parts`."""
    total = sum(parts.values())
    for name, part in parts.items():
        costs[name][text] = kl * part / total if total > 0 else 0.0


def kl_of_blocks(
    model: MeasuredModel, formats: Sequence[str], on_progress: OnProgress
) -> Iterator[tuple[int, str, float]]:
    """For every block and format: the KL per token with only this block stored, on a part of the
    text."""
    batches = model.batches[::EVERY]
    units = sum(sum(batch.labels) for batch in batches)
    reference = model.outputs_on(batches)
    start, count = model.starting(batches), len(model.blocks)
    for depth in range(count):
        on_progress("blocks", depth, count)
        changed = []
        for text in formats:
            inside = {s.name: text for s in model.block_sites if s.depth == depth}
            with run_error_prefix(text), shifted(model, model.errors(inside)):
                changed += model.advanced([start], depth)
        # All formats go on together: later blocks are read once, and the reference's outputs.
        outputs = model.outputs_from(changed, depth + 1)
        for text, kl in zip(formats, reference.kl_to(outputs), strict=True):
            yield depth, text, max(0.0, kl / units)
        model.count_work(len(formats) * (1 - depth / count) / EVERY)
        start = model.advanced([start], depth)[0]
    on_progress("blocks", count, count)
