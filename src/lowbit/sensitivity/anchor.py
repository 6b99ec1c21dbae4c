"""The damage that plans rest on: formulas scaled to what running the stored model shows.

Formulas rank matrices well, but their nats are off. So the model is run, and the KL that it shows
is divided among matrices.

- From `UNIFORM_FROM_BITS` bits on, all block matrices are stored at once, and K-FAC divides.
- With fewer bits that breaks the model: its KL says nothing of a plan that uses the format in a few
  places. Then each block is stored alone, with all others exact, and Fisher's diagonal divides
  among the matrices of a block. Plans by it lost a tenth less than plans by K-FAC (ADR 27).
- Embeddings and heads are stored alone.
- Of formats that differ in their group size only, one is run, and the formulas scale its KL.

All blocks but one are as in the reference, so a pass for one block starts at that block, from the
states that the reference has there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from lowbit.core.errors import run_error_prefix
from lowbit.core.spec import BLOCK_ROLES
from lowbit.curvature.measured_model import MeasuredModel, OnProgress, shifted
from lowbit.curvature.model_outputs import Outputs
from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity.table import Damage

UNIFORM_FROM_BITS = 5.0
"""From this many bits on, all blocks are stored at once."""
LEADING_GROUP = 64
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
    leads = leading(formats)
    few = [text for text in formats if bits_of(parse(text)) < UNIFORM_FROM_BITS]
    blocks = {s.depth for s in model.block_sites}
    if len(blocks) < 2 or None in blocks:
        few = []  # nothing to divide by depth, or matrices outside the blocks
    units = sum(model.counts)
    others = [[site] for site in model.sites if site.role not in BLOCK_ROLES]
    groups = [model.block_sites, *others] if model.block_sites else others
    runs = list(dict.fromkeys(leads[text] for text in formats))
    for i, text in enumerate(runs):
        on_progress("formats", i, len(runs))
        for sites in groups:
            if sites is groups[0] and model.block_sites and text in few:
                continue
            formats_of = {site.name: text for site in sites}
            with run_error_prefix(text), shifted(model, model.errors(formats_of)):
                kl = sum(model.losses_and_kl(reference)[1]) / units
            names = [site.name for site in sites]
            for same in (each for each in formats if leads[each] == text):
                _divide(costs, max(0.0, kl), _parts(damages, names, "kfac"), same, text)
    on_progress("formats", len(runs), len(runs))
    if few:
        runs = list(dict.fromkeys(leads[text] for text in few))
        for depth, text, kl in kl_of_blocks(model, runs, on_progress):
            inside = [site.name for site in model.block_sites if site.depth == depth]
            for same in (each for each in few if leads[each] == text):
                _divide(costs, kl, _parts(damages, inside, "fisher"), same, text)
    return costs


def leading(formats: Sequence[str]) -> dict[str, str]:
    """The format that is run for each one: of those that differ in group size only, the one whose
    groups are nearest to `LEADING_GROUP`. The formulas scale its KL to the others."""
    families: dict[tuple[object, ...], list[str]] = {}
    for text in formats:
        spec = parse(text)
        few = bits_of(spec) < UNIFORM_FROM_BITS
        key = (spec.format, spec.variant, spec.scale, spec.offset, spec.dq, few)
        families.setdefault(key, []).append(text)
    return {
        text: min(family, key=lambda each: _distance(parse(each).group))
        for family in families.values()
        for text in family
    }


def _distance(group: int | str) -> int:
    return abs(group - LEADING_GROUP) if isinstance(group, int) else 10 * LEADING_GROUP


def _parts(
    damages: Damages, names: Sequence[str], formula: str
) -> Callable[[str], dict[str, float]]:
    """A format's damage at these sites, by a formula."""
    return lambda text: {name: getattr(damages[name][text], formula) for name in names}


def _divide(
    costs: Costs, kl: float, parts: Callable[[str], dict[str, float]], text: str, run: str
) -> None:
    """Divide the nats of `run`, scaled to `text`, among sites in proportion to `parts`."""
    total = sum(parts(run).values())
    for name, part in parts(text).items():
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
