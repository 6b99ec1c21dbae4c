"""What every format promises. Entries of the registry join by being there: nothing is listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import get_args

import pytest
import torch
from helpers import error_bounds
from jaxtyping import TypeCheckError
from torch import Tensor

from lowbit.core.spec import Group, OffsetRule, QuantSpec, ScaleRule
from lowbit.quant.byte_counts import DQ_BLOCK, groups, matrix_bytes
from lowbit.quant.codec import CAST_TYPES, TENSORS, Packed, decode, encode, scales_of
from lowbit.quant.formats import CASTS, FORMATS, bits_of, levels_of, parse, spell
from lowbit.quant.packing import pack
from lowbit.quant.scales import fit, nearest

# A short last group, several groups a row, a row of no whole packing unit.
SHAPE = (5, 91)
GROUPS: tuple[Group, ...] = (32, "row", "tensor")


def formats() -> Iterator[QuantSpec]:
    """Each format with each of its levels and offsets, and the scale rule it comes with."""
    for name, form in FORMATS.items():
        for variant in form.variants:
            yield QuantSpec(name, variant, 64, form.scale, "none", False)
        for offset in form.offsets:
            if offset != "none":
                yield parse(f"{name}:{offset}")


def ruled(spec: QuantSpec) -> Iterator[QuantSpec]:
    """The same with every scale rule; an offset's scale is its range."""
    rules = get_args(ScaleRule) if spec.offset == "none" else ("absmax",)
    return (replace(spec, scale=rule) for rule in rules if rule != "none")


PLAIN = [parse(name) for name in CASTS]
OWN = list(formats())
RULED = [spec for own in OWN for spec in ruled(own)]
DOUBLED = [replace(spec, dq=True) for spec in OWN]
CODED = [*RULED, *DOUBLED]


def each(specs: Iterable[QuantSpec]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("spec", list(specs), ids=spell)


every = each([*PLAIN, *CODED])
every_coded = each(CODED)


def at(spec: QuantSpec, group: Group) -> QuantSpec:
    """The same format in other groups; a cast has none."""
    return spec if spec.format in CASTS else replace(spec, group=group)


def gaussian(shape: tuple[int, int] = SHAPE, seed: int = 0, sigma: float = 0.05) -> Tensor:
    return sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def kept(spec: QuantSpec, group: Group) -> Packed:
    """The same matrix in every format, encoded once for all laws that only look at it."""
    return encode(awkward(), at(spec, group))


def awkward() -> Tensor:
    weight = gaussian()
    weight[1, :40] += 0.3  # a group far from zero
    weight[2, 7] = -1.5  # an outlier
    weight[3] *= 1e-3
    return weight


def cut(weight: Tensor, group: Group) -> list[Tensor]:
    """The groups in the order of their scales, each a vector."""
    if group == "tensor":
        return [weight.flatten()]
    size = weight.shape[1] if group == "row" else group
    return [part for row in weight for part in row.split(size)]


def fitted(spec: QuantSpec, parts: list[Tensor]) -> list[float]:
    """The scale of every group before it is stored: a range where there is an offset."""
    if spec.offset == "min":
        return [float(p.max() - p.min()) for p in parts]
    if spec.offset == "zp":
        return [float(p.max().clamp(min=0) - p.min().clamp(max=0)) for p in parts]
    levels = torch.tensor(levels_of(spec), dtype=torch.float32)
    scales = torch.empty(len(parts))
    for size in {len(p) for p in parts}:
        alike = [i for i, p in enumerate(parts) if len(p) == size]
        scales[alike] = fit(torch.stack([parts[i] for i in alike])[None], levels, spec.scale)[0]
    return scales.tolist()


def spreads(spec: QuantSpec, scales: list[float]) -> list[float]:
    """For each scale the largest distance from the mean within its block of scales."""
    kept = torch.tensor(scales, dtype=torch.float64).to(torch.float16).double()
    away = (kept - kept.mean()).abs()
    return [float(b.max()) for b in away.split(DQ_BLOCK) for _ in b]


def assert_within_bound(packed: Packed, weight: Tensor) -> None:
    spec, decoded = packed.spec, decode(packed).double()
    if spec.format in CASTS:
        low, high = float(weight.min()), float(weight.max())
        error = (decoded - weight.double()).abs().max()
        assert float(error) <= error_bounds.error_bound(spec, low, high, 0.0)
        return
    parts = cut(weight, spec.group)
    scales = fitted(spec, parts)
    spread = spreads(spec, scales)
    for part, found, scale, away in zip(
        parts, cut(decoded, spec.group), scales, spread, strict=True
    ):
        error = float((found - part.double()).abs().max())
        assert error <= error_bounds.error_bound(
            spec, float(part.min()), float(part.max()), scale, away
        )


def test_the_suite_checks_shapes_and_dtypes_at_run_time() -> None:
    with pytest.raises(TypeCheckError):
        pack(torch.zeros(2, 3), FORMATS["int4"].packing)
    with pytest.raises(TypeCheckError):
        encode(torch.zeros(3), parse("int4"))


@every
def test_a_spec_is_spelled_and_read_back(spec: QuantSpec) -> None:
    for group in GROUPS:
        assert parse(spell(at(spec, group))) == at(spec, group)


@pytest.mark.parametrize("name", [*FORMATS, *CASTS])
def test_a_name_alone_is_a_format_in_groups_of_64(name: str) -> None:
    spec = parse(name)
    assert (spec.format, spec.dq, spec.offset) == (name, False, "none")
    assert name in CASTS or spec.group == 64


@each(OWN)
def test_levels_are_sorted_distinct_within_one_and_fit_their_codes(spec: QuantSpec) -> None:
    levels = levels_of(spec)
    assert all(a < b for a, b in pairwise(levels))
    assert levels[0] == (-1.0 if spec.offset == "none" else 0.0)
    assert levels[-1] <= 1.0
    assert 2 <= len(levels) <= FORMATS[spec.format].packing.radix


@each(OWN)
def test_the_gap_is_the_distance_of_the_worst_number(spec: QuantSpec) -> None:
    levels = torch.tensor(levels_of(spec), dtype=torch.float64)
    low, steps = 0.0 if spec.offset != "none" else -1.0, 4001
    grid = torch.linspace(low, 1.0, steps, dtype=torch.float64)
    worst = float((grid[:, None] - levels).abs().amin(-1).max())
    assert worst <= error_bounds.gap(spec) + 1e-12
    # The grid may miss the worst number by half its own step.
    assert worst >= error_bounds.gap(spec) - (1.0 - low) / (steps - 1) / 2 - 1e-12


@every
def test_shape_and_dtype_are_kept(spec: QuantSpec) -> None:
    for group in GROUPS:
        packed = kept(spec, group)
        assert packed.shape == SHAPE
        for dtype in CAST_TYPES.values():
            decoded = decode(packed, dtype)
            assert (decoded.shape, decoded.dtype) == (SHAPE, dtype)
            assert decoded.is_contiguous()


@every
def test_what_is_stored_is_integers_without_gradient_and_a_copy(spec: QuantSpec) -> None:
    weight = gaussian()
    before = weight.clone()
    packed = encode(weight.requires_grad_(), spec)
    assert packed.codes.dtype == torch.uint8
    for tensor in packed.tensors().values():
        assert not tensor.is_floating_point()
        assert not tensor.requires_grad
        tensor.zero_()
    assert torch.equal(weight, before)


@every
def test_bytes_are_what_the_ledger_says(spec: QuantSpec) -> None:
    for group in GROUPS:
        packed = kept(spec, group)
        count = matrix_bytes(packed.spec, SHAPE)
        held = {name: t.numel() * t.element_size() for name, t in packed.tensors().items()}
        assert packed.nbytes == count.total == sum(held.values())
        assert (held["codes"], held.get("offsets", 0)) == (count.codes, count.offsets)
        if spec.format in FORMATS:
            assert scales_of(packed).numel() == groups(packed.spec, SHAPE)


@each([*PLAIN, *OWN, *DOUBLED])
@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (9, 257)], ids=str)
def test_bytes_are_what_the_ledger_says_in_any_shape(
    spec: QuantSpec, shape: tuple[int, int]
) -> None:
    for group in (1, 16, 100, *GROUPS):
        packed = encode(gaussian(shape), at(spec, group))
        assert packed.nbytes == matrix_bytes(packed.spec, shape).total


@every
def test_error_is_within_the_stated_bound(spec: QuantSpec) -> None:
    for group in GROUPS:
        assert_within_bound(kept(spec, group), awkward())


@each([spec for spec in (*PLAIN, *CODED) if spec.format != "fp16"])
def test_error_is_within_the_stated_bound_at_extreme_sizes(spec: QuantSpec) -> None:
    """Where the scales of a row are lifted to the smallest stored, or cut to the largest."""
    weight = gaussian((2, 80), seed=1, sigma=0.5).clamp(-1, 1) * torch.tensor([[1e-9], [1e5]])
    assert_within_bound(encode(weight, at(spec, 32)), weight)


@each([*OWN, *DOUBLED])
def test_error_is_within_the_stated_bound_when_all_scales_are_tiny(spec: QuantSpec) -> None:
    weight = gaussian((2, 80), seed=1, sigma=0.5).clamp(-1, 1) * torch.tensor([[1e-9], [3e-5]])
    assert_within_bound(encode(weight, at(spec, 32)), weight)


# How a scale is stored does not depend on the rule that fitted it. The range of `min` is counted
# from the minimum as stored, so there is no fitted scale to compare.
@each([spec for spec in (*OWN, *DOUBLED) if spec.offset != "min"])
def test_a_stored_scale_is_within_its_bound_of_the_fitted_one(spec: QuantSpec) -> None:
    weight = gaussian((40, 96), seed=2)
    parts = cut(weight, 8)
    found = scales_of(encode(weight, at(spec, 8))).flatten().tolist()
    scales = fitted(spec, parts)
    assert len(scales) > DQ_BLOCK
    for scale, away, near in zip(scales, spreads(spec, scales), found, strict=True):
        assert abs(near - scale) <= error_bounds.scale_bound(spec, scale, away)


@every
def test_zeros_decode_to_zero(spec: QuantSpec) -> None:
    weight = torch.zeros(SHAPE)
    assert torch.equal(decode(encode(weight, at(spec, 32))), weight)


@every
def test_a_zero_group_among_others_decodes_to_zero_or_within_the_bound(spec: QuantSpec) -> None:
    weight = gaussian((5, 96))
    weight[2, 32:64] = 0
    packed = encode(weight, at(spec, 32))
    assert_within_bound(packed, weight)
    if not spec.dq:
        assert not decode(packed)[2, 32:64].any()


@each(OWN)
def test_ties_go_to_the_lower_level(spec: QuantSpec) -> None:
    levels = torch.tensor(levels_of(spec), dtype=torch.float32)
    ties = (levels[1:] + levels[:-1]) / 2
    assert torch.equal(nearest(ties, levels), torch.arange(len(ties), dtype=torch.int32))
    above = torch.nextafter(ties, torch.tensor(torch.inf))
    assert torch.equal(nearest(above, levels), torch.arange(1, len(levels), dtype=torch.int32))


def _tied(spec: QuantSpec) -> Tensor:
    """A group of ties and one more weight, which makes the scale one."""
    levels = torch.tensor(levels_of(spec), dtype=torch.float32)
    ties = (levels[1:] + levels[:-1]) / 2
    # The largest weight is one, or else the sizes' mean is.
    size = 1.0 if spec.scale == "absmax" else len(ties) + 1 - float(ties.abs().double().sum())
    return torch.cat([ties, torch.tensor([size])])[None]


def _scale_is_one(spec: QuantSpec) -> bool:
    return float(scales_of(encode(_tied(spec), at(spec, "row")))) == 1.0


# lsq and mse fit a scale that cannot be chosen, and +dq rounds it against others.
@each([s for s in RULED if s.scale in ("absmax", "absmean") and _scale_is_one(s)])
def test_ties_go_to_the_lower_level_from_end_to_end(spec: QuantSpec) -> None:
    if spec.offset == "min":
        # Its ties are counted from the minimum, so the minimum has to be zero.
        weight = torch.cat([_tied(spec), torch.zeros(1, 1)], 1)
        decoded = decode(encode(weight, at(spec, "row")))[0, :-2]
    else:
        decoded = decode(encode(_tied(spec), at(spec, "row")))[0, :-1]
    assert torch.equal(decoded, torch.tensor(levels_of(spec)[:-1], dtype=torch.float32))


def test_all_formats_with_a_scale_by_the_largest_weight_take_part_in_ties_end_to_end() -> None:
    assert all(_scale_is_one(s) for s in OWN if s.offset != "min")


@each(PLAIN)
def test_a_cast_is_stored_without_further_loss(spec: QuantSpec) -> None:
    once = decode(encode(gaussian(), spec))
    assert torch.equal(decode(encode(once, spec)), once)


@each([spec for spec in RULED if spec.scale == "absmax"])
def test_a_decoded_matrix_is_stored_without_further_loss(spec: QuantSpec) -> None:
    """Where the scale comes out the same: a group's values are then all levels."""
    weight = gaussian((16, 96), seed=3)
    for group in GROUPS:
        first = encode(weight, at(spec, group))
        once = decode(first)
        second = encode(once, first.spec)
        twice = decode(second)
        same = scales_of(first).flatten() == scales_of(second).flatten()
        if first.offsets is not None and second.offsets is not None:
            same &= (first.offsets == second.offsets).flatten()
        # With both ends among the levels the largest weight is stored exactly, always.
        if spec.offset == "none" and levels_of(spec)[-1] == 1.0:
            assert bool(same.all())
        assert group != 32 or bool(same.any())
        for exact, a, b in zip(same, cut(once, group), cut(twice, group), strict=True):
            assert not exact or torch.equal(a, b)


def _families() -> list[list[QuantSpec]]:
    """Specs that differ in bits only, in ascending order."""
    found: dict[tuple[str, str, ScaleRule, OffsetRule, bool], list[QuantSpec]] = {}
    for spec in CODED:
        key = (FORMATS[spec.format].family, spec.variant, spec.scale, spec.offset, spec.dq)
        found.setdefault(key, []).append(spec)
    return [sorted(f, key=bits_of) for f in found.values() if len(f) > 1]


@pytest.mark.parametrize("family", _families(), ids=lambda family: spell(family[0]))
def test_more_bits_are_better_on_gaussian_weights(family: list[QuantSpec]) -> None:
    weight = gaussian((64, 128), seed=4, sigma=1.0)
    for group in (32, "row"):
        stored_as = (encode(weight, at(spec, group)) for spec in family)
        errors = [float((decode(packed) - weight).square().mean()) for packed in stored_as]
        assert all(more < fewer for fewer, more in pairwise(errors)), errors


@each([spec for spec in RULED if spec.scale in ("lsq", "mse")])
def test_a_fitted_scale_is_never_worse_than_where_it_starts(spec: QuantSpec) -> None:
    levels = torch.tensor(levels_of(spec), dtype=torch.float32)
    # lsq starts from the mean where there are three levels, else from the largest.
    start: ScaleRule = "absmean" if spec.scale == "lsq" and len(levels) == 3 else "absmax"
    blocks = 0.05 * torch.distributions.StudentT(3.0).sample((6, 8, 32))

    def error(scale: Tensor) -> Tensor:
        away = (blocks / scale[..., None])[..., None] - levels
        decoded = levels[away.abs().argmin(-1)].double() * scale[..., None].double()
        return (blocks.double() - decoded).square().sum(-1)

    begun, ended = error(fit(blocks, levels, start)), error(fit(blocks, levels, spec.scale))
    # The rules compare sums of 32 squares in fp32: 2^-24 for each addition, twice over.
    assert bool((ended <= begun * (1 + 64 * 2.0**-24)).all())
    # And better somewhere, unless the format's steps are finer than those of the search.
    assert float(ended.sum()) < float(begun.sum()) or float(levels.diff().max()) < 0.9 / 64


def test_a_packed_matrix_names_all_that_it_stores() -> None:
    assert tuple(encode(gaussian(), parse("int4@32:zp+dq")).tensors()) == TENSORS


def test_an_error_bound_is_not_loose_by_more_than_the_worst_weight() -> None:
    """Weights exactly between two levels meet the bound, so it says no more than it has to."""
    for spec in OWN:
        if spec.scale == "absmax" and spec.offset == "none":
            levels = torch.tensor(levels_of(spec), dtype=torch.float64)
            worst = levels[:-1] + levels.diff() / 2
            weight = torch.cat([worst, torch.tensor([-1.0, 1.0])])[None].float()
            error = (decode(encode(weight, at(spec, "row"))) - weight).abs().max()
            rounding = error_bounds.scale_bound(spec, 1.0) * 2 + error_bounds.SINGLE * 2
            assert float(error) >= error_bounds.error_bound(spec, -1.0, 1.0, 1.0) - rounding
