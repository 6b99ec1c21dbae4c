"""Rounds a model's matrices with calibration text, block after block; starts adapters there.

Each block sees its inputs as the rounded blocks before it give them, so later blocks make up for
earlier errors. For one block:
    1. run it on all sequences, and sum x x' over the inputs x of each matrix;
    2. round its matrices with these moments (`quant.calibrated`), and put the decoded ones in; with
       `init = "weighted"` add each adapter's start, the best correction of its rank;
    3. run it again; its outputs are the next block's inputs.
A language model's head, often tied to its embedding, is rounded first, with the inputs that the
16-bit model gives it; so the blocks see the rounded embedding.

One block's weights are in memory at a time, and one hidden state per token. The text is from the
training part, so that plans are chosen and scored on other text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lowbit.core.errors import run_error_prefix
from lowbit.core.spec import Site
from lowbit.curvature.measured_model import OnProgress
from lowbit.layers.adapters import weighted_factors
from lowbit.models.blocks import Arguments, Blocks
from lowbit.models.family import is_transposed
from lowbit.models.packed_attention import Segments
from lowbit.models.weights import blank
from lowbit.quant.calibrated import encode_calibrated
from lowbit.quant.codec import Packed, decode, encode
from lowbit.quant.two_sided import encode_two_sided
from lowbit.runs import allocator
from lowbit.runs.prepare import Prepared
from lowbit.runs.rounding.gradients import Gradients, cached_gradients
from lowbit.runs.rounding.head import encode_head, of_both_uses
from lowbit.runs.rounding.moments import (
    Moments,
    calibration_batches,
    recording,
)
from lowbit.runs.rounding.rounded_sites import (
    Choices,
    RoundedSite,
    cache_keys,
    needs_text,
    read_cached,
    save_cached,
    starts_weighted,
)
from lowbit.tasks.base import Batch


def round_sites(
    prepared: Prepared, sites: Sequence[Site], choices: Choices, on_progress: OnProgress
) -> dict[str, RoundedSite]:
    """The sites that need calibration text, rounded; from the cache if they are there.

    These are block matrices with calibrated rounding or a weighted start, and heads.
    """
    plan = prepared.spec.plan
    wanted = [site for site in sites if needs_text(plan, site, choices[site.name])]
    if not wanted:
        return {}
    batches = calibration_batches(prepared)
    keys = cache_keys(prepared, sites, choices, batches)
    cached = {site.name: read_cached(keys[site.name], site, choices[site.name]) for site in wanted}
    if all(rounded is not None for rounded in cached.values()):
        return {name: rounded for name, rounded in cached.items() if rounded is not None}
    on_progress = allocator.emptying_holes(on_progress)
    with allocator.keeping_some_freed_memory():
        gradients = Gradients()
        if any(site.depth is not None for site in wanted):
            two_sided = any(choices[s.name].rounding == "two-sided" for s in wanted)
            gradients = cached_gradients(prepared, batches, two_sided, on_progress)
        rounding = _Rounding(prepared, sites, choices, batches, gradients)
        rounded_sites = dict(rounding.run(on_progress))
    for name, rounded in rounded_sites.items():
        save_cached(keys[name], rounded)
    return rounded_sites


class _Rounding:
    """One pass over the blocks of a model."""

    def __init__(
        self,
        prepared: Prepared,
        sites: Sequence[Site],
        choices: Choices,
        batches: Sequence[Batch],
        gradients: Gradients,
    ) -> None:
        self.gradients = gradients
        self.sites, self.choices, self.plan = sites, choices, prepared.spec.plan
        self.model, self.weights = blank(
            prepared.checkpoint, prepared.kind, prepared.labels, prepared.pad, torch.device("cpu")
        )
        self.blocks, self.batches = Blocks(self.model, sites), batches
        with self.blocks.absent():
            self.weights.fill(self.model, "")
            self.model.float()

    def _round_outside_blocks(self) -> Iterator[tuple[str, RoundedSite]]:
        """Round what is not in a block as the plan does, and put it in."""
        outside = [site for site in self.sites if site.depth is None and not site.fresh]
        calibrated = [s for s in outside if self.choices[s.name].rounding != "nearest"]
        moment = self._last_moment() if calibrated else None
        for site in outside:
            module, spec = self.model.get_submodule(site.name), self.choices[site.name].quant
            weight = _weight(module)
            with run_error_prefix(site.name):
                if site in calibrated:
                    assert moment is not None
                    packed = encode_head(weight, spec, of_both_uses(site, moment))
                    yield site.name, RoundedSite(packed)
                else:
                    packed = encode(weight, spec)
            _put_weight(module, decode(packed))

    def _last_moment(self) -> Tensor:
        """The mean x x' of the last hidden states of the 16-bit model, which its head is given."""
        states, arguments = self._first_inputs(self.batches)
        for depth in range(len(self.blocks)):
            block = self.blocks.modules[depth]
            with self.weights.filled(block, self.blocks.name(depth)):
                block.float()
                pairs = zip(states, arguments, strict=True)
                states = [self.blocks.run(depth, state, given) for state, given in pairs]
        moments = Moments()
        for batch, state in zip(self.batches, states, strict=True):
            segments = Segments(batch.lengths, batch.ids.device)
            moments.add("head", self.blocks.after(batch.ids, segments, state).clone())
        return moments.of("head") / sum(len(batch.ids) for batch in self.batches)

    @torch.no_grad()
    def _first_inputs(self, batches: Sequence[Batch]) -> tuple[list[Tensor], list[Arguments]]:
        """The first block's input and its other arguments, for every batch."""
        segments = [Segments(batch.lengths, batch.ids.device) for batch in batches]
        pairs = [self.blocks.first_inputs(b.ids, s) for b, s in zip(batches, segments, strict=True)]
        return [hidden for hidden, _ in pairs], [arguments for _, arguments in pairs]

    @torch.no_grad()
    def run(self, on_progress: OnProgress) -> Iterator[tuple[str, RoundedSite]]:
        """Round block after block."""
        count = len(self.blocks)
        on_progress("rounding", 0, count)
        yield from self._round_outside_blocks()
        self.states, self.arguments = self._first_inputs(self.batches)
        for depth in range(count):
            block = self.blocks.modules[depth]
            self.weights.fill(block, self.blocks.name(depth))
            block.float()
            inside = [site for site in self.sites if site.depth == depth]
            moments = self._moments(depth, inside)
            for site in inside:
                rounded = self._round(site, moments)
                if rounded is not None and needs_text(self.plan, site, self.choices[site.name]):
                    yield site.name, rounded
            if depth + 1 < count:
                self.states = self._outputs(depth)
            self.blocks.modules[depth] = nn.Identity()  # frees the block's weights
            on_progress("rounding", depth + 1, count)

    def _moments(self, depth: int, inside: Sequence[Site]) -> Moments:
        """The moments of the inputs of this block's calibrated matrices."""
        moments = Moments(self.gradients.weights)
        names = [s.name for s in inside if needs_text(self.plan, s, self.choices[s.name])]
        if names:
            with recording(self.model, names, moments):
                self._outputs(depth)
        return moments

    def _outputs(self, depth: int) -> list[Tensor]:
        pairs = zip(self.states, self.arguments, strict=True)
        return [self.blocks.run(depth, state, arguments) for state, arguments in pairs]

    def _round(self, site: Site, moments: Moments) -> RoundedSite | None:
        """Round a matrix as the plan stores it, and put it in; None if it is trained."""
        choice = self.choices[site.name]
        if choice.base == "trained":
            return None
        module = self.model.get_submodule(site.name)
        weight, correction = _weight(module), None
        with run_error_prefix(site.name):
            packed = self._encode(site, weight, moments)
        stored = decode(packed)
        if starts_weighted(self.plan, choice):
            moment = self._moment(site, moments)
            correction = weighted_factors(weight - stored, moment, choice.rank)
            stored = stored + correction[0] @ correction[1]
        _put_weight(module, stored)
        return RoundedSite(packed, correction)

    def _encode(self, site: Site, weight: Tensor, moments: Moments) -> Packed:
        choice = self.choices[site.name]
        if choice.rounding == "nearest":
            return encode(weight, choice.quant)
        moment = self._moment(site, moments)
        if choice.rounding == "two-sided" and site.name in self.gradients.weights:
            factors = self.gradients.factors(site.name)
            return encode_two_sided(weight, choice.quant, moment, factors)
        return encode_calibrated(weight, choice.quant, moment)

    def _moment(self, site: Site, moments: Moments) -> Tensor:
        return moments.of(site.name) / sum(state.shape[-2] for state in self.states)


def _weight(module: nn.Module) -> Tensor:
    """(out, in) in fp32."""
    weight: Tensor = module.weight.detach().float()  # type: ignore[union-attr, operator, assignment]
    return weight.t() if is_transposed(module) else weight


def _put_weight(module: nn.Module, weight: Tensor) -> None:
    stored: Tensor = module.weight  # type: ignore[assignment]
    stored.data = (weight.t() if is_transposed(module) else weight).contiguous()
