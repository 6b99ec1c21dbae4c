"""What every format promises. Entries of the registry join by being there: nothing is listed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import get_args

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from lowbit.quant import bounds
from lowbit.quant.codec import CAST_TYPES, TENSORS, Packed, decode, encode, scales_of
from lowbit.quant.formats import CASTS, FORMATS, bits_of, levels_of, parse, spell
from lowbit.quant.ledger import DQ_BLOCK, groups, stored
from lowbit.quant.packing import pack
from lowbit.quant.scales import fit, nearest
from lowbit.spec import Group, OffsetRule, QuantSpec, ScaleRule

# A short last group, several groups a row, a row of no whole packing unit.
SHAPE = (5, 91)
GROUPS: tuple[Group, ...] = (1, 32, 128, "row", "tensor")


def every_spec(group: Group = 64) -> Iterator[QuantSpec]:
    """Each cast, and each format with each of its levels and scale rules, or of its offsets."""
    yield from (parse(name) for name in CASTS)
    scales: tuple[ScaleRule, ...] = tuple(s for s in get_args(ScaleRule) if s != "none")
    for name, form in FORMATS.items():
        for dq in (False, True):
            for offset in form.offsets:
                if offset == "none":
                    for variant in form.variants:
                        for scale in scales:
                            yield QuantSpec(name, variant, group, scale, offset, dq)
                else:
                    yield QuantSpec(name, "unit", group, "absmax", offset, dq)


SPECS = list(every_spec())
CODED = [spec for spec in SPECS if spec.format in FORMATS]
every = pytest.mark.parametrize("spec", SPECS, ids=spell)
every_coded = pytest.mark.parametrize("spec", CODED, ids=spell)


def at(spec: QuantSpec, group: Group) -> QuantSpec:
    """The same format in other groups; a cast has none."""
    if spec.format in CASTS:
        return spec
    return QuantSpec(spec.format, spec.variant, group, spec.scale, spec.offset, spec.dq)


def gaussian(shape: tuple[int, int] = SHAPE, seed: int = 0, sigma: float = 0.05) -> Tensor:
    return sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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


def assert_within_bound(spec: QuantSpec, weight: Tensor) -> None:
    decoded = decode(encode(weight, spec)).double()
    if spec.format in CASTS:
        low, high = float(weight.min()), float(weight.max())
        error = (decoded - weight.double()).abs().max()
        assert float(error) <= bounds.error_bound(spec, low, high, 0.0)
        return
    parts = cut(weight, spec.group)
    scales = fitted(spec, parts)
    spread = spreads(spec, scales)
    for part, kept, scale, away in zip(
        parts, cut(decoded, spec.group), scales, spread, strict=True
    ):
        error = float((kept - part.double()).abs().max())
        assert error <= bounds.error_bound(spec, float(part.min()), float(part.max()), scale, away)


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


@every_coded
def test_levels_are_sorted_distinct_within_one_and_fit_their_codes(spec: QuantSpec) -> None:
    levels = levels_of(spec)
    assert all(a < b for a, b in pairwise(levels))
    assert levels[0] == (-1.0 if spec.offset == "none" else 0.0)
    assert levels[-1] <= 1.0
    assert 2 <= len(levels) <= FORMATS[spec.format].packing.radix
    assert 0 < bounds.gap(spec) <= 1


@every
def test_shape_and_dtype_are_kept(spec: QuantSpec) -> None:
    weight = gaussian()
    for group in GROUPS:
        packed = encode(weight, at(spec, group))
        assert packed.shape == SHAPE
        for dtype in CAST_TYPES.values():
            decoded = decode(packed, dtype)
            assert (decoded.shape, decoded.dtype) == (SHAPE, dtype)
            assert decoded.is_contiguous()


@every
def test_what_is_stored_is_integers_without_gradient(spec: QuantSpec) -> None:
    packed = encode(gaussian().requires_grad_(), spec)
    assert packed.codes.dtype == torch.uint8
    for tensor in packed.tensors().values():
        assert not tensor.is_floating_point()
        assert not tensor.requires_grad


@every
def test_the_weight_is_not_touched(spec: QuantSpec) -> None:
    weight = gaussian()
    before = weight.clone()
    decode(encode(weight, spec)).zero_()
    assert torch.equal(weight, before)


@every
@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (5, 91), (9, 257)], ids=str)
def test_bytes_are_what_the_ledger_says(spec: QuantSpec, shape: tuple[int, int]) -> None:
    for group in GROUPS:
        packed = encode(gaussian(shape), at(spec, group))
        count = stored(packed.spec, shape)
        held = {name: t.numel() * t.element_size() for name, t in packed.tensors().items()}
        assert set(held) <= set(TENSORS)
        assert packed.nbytes == count.total == sum(held.values())
        assert (held["codes"], held.get("offsets", 0)) == (count.codes, count.offsets)
        if spec.format in FORMATS:
            assert scales_of(packed).numel() == groups(packed.spec, shape)


@every
def test_error_is_within_the_stated_bound(spec: QuantSpec) -> None:
    weight = gaussian()
    weight[1, :40] += 0.3  # a group far from zero
    weight[2, 7] = -1.5  # an outlier
    weight[3] *= 1e-3
    for group in GROUPS:
        assert_within_bound(at(spec, group), weight)


@every
@pytest.mark.parametrize("size", [1e-9, 1e-6, 3e-5, 3e3, 1e5])
def test_error_is_within_the_stated_bound_at_extreme_sizes(spec: QuantSpec, size: float) -> None:
    weight = size * gaussian(seed=1, sigma=1.0).clamp(-1, 1)
    if size > bounds.HALF_TOP and spec.format == "fp16":
        pytest.skip("fp16 refuses what it cannot hold: a law of its own")
    for group in (32, "tensor"):
        assert_within_bound(at(spec, group), weight)


@every_coded
def test_a_stored_scale_is_within_its_bound_of_the_fitted_one(spec: QuantSpec) -> None:
    if spec.offset == "min":
        pytest.skip("its range is counted from the minimum as stored")
    weight = gaussian((40, 96), seed=2)
    parts = cut(weight, 8)
    kept = scales_of(encode(weight, at(spec, 8))).flatten().double()
    scales = fitted(spec, parts)
    assert len(scales) > DQ_BLOCK
    for scale, away, found in zip(scales, spreads(spec, scales), kept, strict=True):
        assert abs(float(found) - scale) <= bounds.scale_bound(spec, scale, away)


@every_coded
def test_the_gap_is_the_distance_of_the_worst_number(spec: QuantSpec) -> None:
    levels = torch.tensor(levels_of(spec), dtype=torch.float64)
    low = 0.0 if spec.offset != "none" else -1.0
    grid = torch.linspace(low, 1.0, 20001, dtype=torch.float64)
    worst = float((grid[:, None] - levels).abs().amin(-1).max())
    # The grid may miss the worst number by half its own step.
    assert worst <= bounds.gap(spec) + 1e-12
    assert worst >= bounds.gap(spec) - (1.0 - low) / 20000 / 2 - 1e-12


@every
def test_zeros_decode_to_zero(spec: QuantSpec) -> None:
    for group in GROUPS:
        weight = torch.zeros(SHAPE)
        assert torch.equal(decode(encode(weight, at(spec, group))), weight)


@every
def test_a_zero_group_among_others_decodes_to_zero_or_within_the_bound(spec: QuantSpec) -> None:
    weight = gaussian((5, 96))
    weight[2, 32:64] = 0
    if spec.format in FORMATS:
        assert_within_bound(at(spec, 32), weight)
    if not spec.dq:
        assert not decode(encode(weight, at(spec, 32)))[2, 32:64].any()


@every_coded
def test_ties_go_to_the_lower_level(spec: QuantSpec) -> None:
    levels = torch.tensor(levels_of(spec), dtype=torch.float32)
    ties = (levels[1:] + levels[:-1]) / 2
    assert torch.equal(nearest(ties, levels), torch.arange(len(ties), dtype=torch.int32))
    above = torch.nextafter(ties, torch.tensor(torch.inf))
    assert torch.equal(nearest(above, levels), torch.arange(1, len(levels), dtype=torch.int32))


@every_coded
def test_ties_go_to_the_lower_level_from_end_to_end(spec: QuantSpec) -> None:
    if spec.scale not in ("absmax", "absmean") or spec.offset == "min" or spec.dq:
        pytest.skip("no scale that a test could set to exactly one")
    levels = torch.tensor(levels_of(spec), dtype=torch.float32)
    ties = (levels[1:] + levels[:-1]) / 2
    # One more weight makes the scale one: the largest, or what brings the mean of sizes to one.
    size = 1.0 if spec.scale == "absmax" else len(ties) + 1 - ties.abs().double().sum()
    weight = torch.cat([ties, torch.tensor([float(size)])])[None]
    packed = encode(weight, at(spec, "row"))
    if float(scales_of(packed)) != 1.0:
        pytest.skip("the mean of these ties is not exactly one")
    assert torch.equal(decode(packed)[0, :-1], levels[:-1])


@every
def test_a_decoded_matrix_is_stored_without_further_loss(spec: QuantSpec) -> None:
    """Where the scale is absmax and comes out the same: a group's values are then all levels."""
    if spec.scale not in ("absmax", "none") or spec.dq:
        pytest.skip("its scale is fitted anew, or is itself rounded against others")
    weight = gaussian((16, 96), seed=3)
    for group in (32, "row", "tensor"):
        first = encode(weight, at(spec, group))
        once = decode(first)
        second = encode(once, first.spec)
        twice = decode(second)
        if spec.format in CASTS:
            assert torch.equal(once, twice)
            continue
        same = scales_of(first).flatten() == scales_of(second).flatten()
        if first.offsets is not None and second.offsets is not None:
            same &= (first.offsets == second.offsets).flatten()
        assert bool(same.any())
        # With both ends among the levels the largest weight is stored exactly, always.
        if spec.offset == "none" and levels_of(spec)[-1] == 1.0:
            assert bool(same.all())
        for kept, a, b in zip(same, cut(once, group), cut(twice, group), strict=True):
            assert not kept or torch.equal(a, b)


def _families() -> list[list[QuantSpec]]:
    """Specs that differ in bits only, in ascending order."""
    found: dict[tuple[str, str, ScaleRule, OffsetRule, bool], list[QuantSpec]] = {}
    for spec in CODED:
        key = (FORMATS[spec.format].family, spec.variant, spec.scale, spec.offset, spec.dq)
        found.setdefault(key, []).append(spec)
    return [sorted(f, key=bits_of) for f in found.values() if len(f) > 1]


@pytest.mark.parametrize("family", _families(), ids=lambda family: spell(family[0]))
@pytest.mark.parametrize("group", [32, "row"])
def test_more_bits_are_better_on_gaussian_weights(family: list[QuantSpec], group: Group) -> None:
    weight = gaussian((128, 256), seed=4, sigma=1.0)
    errors = [
        float((decode(encode(weight, at(s, group))) - weight).square().mean()) for s in family
    ]
    assert all(more < fewer for fewer, more in pairwise(errors)), errors


@every_coded
def test_lsq_and_mse_are_never_worse_than_where_they_start(spec: QuantSpec) -> None:
    if spec.scale not in ("lsq", "mse") or spec.dq:
        pytest.skip("another rule")
    levels = torch.tensor(levels_of(spec), dtype=torch.float32)
    # lsq starts from the mean where there are three levels, else from the largest.
    start: ScaleRule = "absmean" if spec.scale == "lsq" and len(levels) == 3 else "absmax"
    blocks = torch.distributions.StudentT(3.0).sample((6, 8, 32)) * 0.05

    def error(scale: Tensor) -> Tensor:
        away = (blocks / scale[..., None])[..., None] - levels
        kept = levels[away.abs().argmin(-1)].double() * scale[..., None].double()
        return (blocks.double() - kept).square().sum(-1)

    begun, ended = error(fit(blocks, levels, start)), error(fit(blocks, levels, spec.scale))
    # The rules compare sums of 32 squares in fp32: 2^-24 for each addition, twice over.
    assert bool((ended <= begun * (1 + 64 * 2.0**-24)).all())
    assert float(ended.sum()) < float(begun.sum())


def test_a_packed_matrix_names_all_that_it_stores() -> None:
    packed: Packed = encode(gaussian(), parse("int4@32:zp+dq"))
    assert tuple(packed.tensors()) == TENSORS
