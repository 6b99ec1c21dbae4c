"""Encode and decode against a reference in float64 that shares no code with them.

The reference knows the levels and the layout that the documents describe, and does the arithmetic
in numpy: bytes to numbers, numbers to digits, digits to levels, times scale, plus offset.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowbit.core.errors import RunError
from lowbit.core.spec import QuantSpec
from lowbit.quant import codec
from lowbit.quant.codec import Packed, Scratch, decode, encode, scales_of
from lowbit.quant.formats import (
    CASTS,
    FORMATS,
    is_cast,
    levels_of,
    parse,
)
from lowbit.quant.levels import NF4, normal_levels

# Half a unit in the last place of fp32. A level, its product and an offset's take one rounding
# each and the sum another; four cover them.
ULP = 2.0**-24
ROUNDINGS = 4 * ULP


def suffixed() -> list[tuple[str, str]]:
    """Every format as it comes, with each of its offsets, and with its scales quantised."""
    offsets = [(f.name, f":{o}") for f in FORMATS.values() for o in f.offsets if o != "none"]
    return [(name, suffix) for name in FORMATS for suffix in ("", "+dq")] + offsets


def stored_scales(packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    """Scales in float64 and how far fp32 arithmetic may put them off, one for each group."""
    assert packed.scales is not None
    if packed.dq_scales is None or packed.dq_mean is None:
        scale = packed.scales.numpy().view(np.float16).astype(np.float64).ravel()
        return scale, np.zeros_like(scale)
    index = packed.scales.numpy().astype(np.int64).ravel()
    outer = packed.dq_scales.numpy().view(np.float16).astype(np.float64).ravel()
    mean = float(packed.dq_mean.numpy().view(np.float32)[0])
    away = (index - 127) / 127 * outer.repeat(256)[: len(index)]
    return np.maximum(away + mean, 0.0), ROUNDINGS * (np.abs(away) + abs(mean))


def stored_codes(packed: Packed) -> np.ndarray:
    packing = FORMATS[packed.spec.format].packing
    raw = packed.codes.numpy().astype(np.uint64).reshape(len(packed.codes), -1, packing.bytes)
    number = (raw << (8 * np.arange(packing.bytes, dtype=np.uint64))).sum(-1, dtype=np.uint64)
    digits = [number // packing.radix**place % packing.radix for place in range(packing.codes)]
    return np.stack(digits, -1).reshape(len(raw), -1)[:, : packed.shape[1]].astype(np.int64)


def group_of_each(packed: Packed) -> np.ndarray:
    """Which scale each weight belongs to."""
    rows, columns = packed.shape
    if packed.spec.group == "tensor":
        return np.zeros((rows, columns), dtype=np.int64)
    size = columns if packed.spec.group == "row" else packed.spec.group
    return np.arange(rows)[:, None] * -(-columns // size) + np.arange(columns) // size


def candidates(packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns, levels): what each weight could decode to, and fp32's rounding of that."""
    spec, group = packed.spec, group_of_each(packed)
    levels = np.array(levels_of(spec), dtype=np.float64)
    scale, slack = (numbers[group][..., None] for numbers in stored_scales(packed))
    value = levels * scale
    rounding = ROUNDINGS * np.abs(value) + np.abs(levels) * slack
    if packed.offsets is not None:
        kept = packed.offsets.numpy()
        if spec.offset == "min":
            offset = kept.view(np.float16).astype(np.float64).ravel()[group][..., None]
        else:
            zero = kept.astype(np.float64).ravel()[group][..., None] / (len(levels) - 1)
            offset, rounding = -zero * scale, rounding + zero * slack
        value, rounding = value + offset, rounding + ROUNDINGS * np.abs(offset)
    return value, rounding


def assert_decodes_as_the_reference(weight: Tensor, spec: QuantSpec) -> None:
    packed = encode(weight, spec)
    value, rounding = candidates(packed)
    codes = stored_codes(packed)[..., None]
    expected, allowed = (np.take_along_axis(a, codes, -1)[..., 0] for a in (value, rounding))
    found = decode(packed).numpy().astype(np.float64)
    assert (np.abs(found - expected) <= allowed).all()
    # And each code is the nearest level, as near as fp32 can tell: dividing by the scale, taking
    # off the offset and the boundary are a rounding each.
    exact = weight.numpy().astype(np.float64)
    away = np.abs(value - exact[..., None])
    unsure = 2 * rounding.max(-1) + 8 * ULP * (np.abs(exact) + np.abs(value).max(-1))
    assert (np.take_along_axis(away, codes, -1)[..., 0] <= away.min(-1) + unsure).all()


@pytest.mark.parametrize("columns", [48, 96, 100, 576, 768])
@pytest.mark.parametrize("group", [16, 32, 64, 100, 128, 512, "row", "tensor"])
def test_decode_equals_a_float64_reference(columns: int, group: int | str) -> None:
    weight = 0.05 * torch.randn(3, columns)
    for name, suffix in suffixed():
        assert_decodes_as_the_reference(weight, parse(f"{name}@{group}{suffix}"))


groups = st.one_of(st.integers(1, 70), st.sampled_from(["row", "tensor"]))
shapes = st.tuples(st.integers(1, 6), st.integers(1, 90))
seeds = st.integers(0, 2**31)


@st.composite
def coded(draw: st.DrawFn) -> QuantSpec:
    """Any format with any suffix that goes with it."""
    form = FORMATS[draw(st.sampled_from(list(FORMATS)))]
    offset = draw(st.sampled_from(form.offsets))
    if offset != "none":
        suffix = f":{offset}"
    else:
        variant = draw(st.sampled_from(list(form.variants)))
        scale = draw(st.sampled_from(["absmax", "absmean", "lsq", "mse"]))
        suffix = (f":{variant}" if variant else "") + f":{scale}"
    dq = draw(st.sampled_from(["", "+dq"]))
    return parse(f"{form.name}@{draw(groups)}{suffix}{dq}")


stored = st.one_of(coded(), st.sampled_from([parse(name) for name in CASTS]))


def matrix(shape: tuple[int, int], seed: int, size: float = 1.0) -> Tensor:
    """Gaussian weights about a mean of their own in every row, and some exact zeros."""
    made = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=made) + torch.randn(shape[0], 1, generator=made)
    return size * torch.where(torch.rand(shape, generator=made) < 0.1, 0.0, weight)


@given(coded(), shapes, seeds, st.sampled_from([1e-9, 1e-4, 0.05, 1.0, 1e5]))
def test_decode_equals_a_float64_reference_in_any_shape_and_size(
    spec: QuantSpec, shape: tuple[int, int], seed: int, size: float
) -> None:
    assert_decodes_as_the_reference(matrix(shape, seed, size), spec)


@given(stored, shapes, seeds)
def test_a_bf16_decode_is_the_fp32_decode_cast(
    spec: QuantSpec, shape: tuple[int, int], seed: int
) -> None:
    packed = encode(matrix(shape, seed), spec)
    full = decode(packed)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(decode(packed, dtype), full.to(dtype))


@given(stored, shapes, seeds, st.lists(st.integers(0, 99), max_size=8))
def test_decoding_some_rows_is_decoding_all_and_taking_those(
    spec: QuantSpec, shape: tuple[int, int], seed: int, chosen: list[int]
) -> None:
    packed = encode(matrix(shape, seed), spec)
    index = torch.tensor([row % shape[0] for row in chosen], dtype=torch.int64)
    assert torch.equal(decode(packed, rows=index), decode(packed)[index])


@given(coded(), shapes, seeds)
def test_decoding_twice_gives_the_same_bits_and_a_fresh_matrix(
    spec: QuantSpec, shape: tuple[int, int], seed: int
) -> None:
    packed = encode(matrix(shape, seed), spec)
    first = decode(packed)
    again = decode(packed)
    assert torch.equal(first, again)
    again.zero_()
    assert torch.equal(decode(packed), first)


@given(coded(), shapes, seeds)
def test_each_group_is_stored_as_if_it_were_alone(
    spec: QuantSpec, shape: tuple[int, int], seed: int
) -> None:
    if spec.dq or spec.group == "tensor":
        return
    weight = matrix(shape, seed)
    whole = decode(encode(weight, spec))
    size = shape[1] if spec.group == "row" else spec.group
    parts = [decode(encode(part.contiguous(), spec)) for part in weight.split(size, 1)]
    assert torch.equal(whole, torch.cat(parts, 1))


@given(coded(), shapes, seeds)
def test_twice_the_weights_decode_to_twice_the_values(
    spec: QuantSpec, shape: tuple[int, int], seed: int
) -> None:
    """Doubling is exact in fp16 and fp32, so nothing may notice it, while scales are normal."""
    weight = matrix(shape, seed)
    once, twice = encode(weight, spec), encode(2 * weight, spec)
    normal = (scales_of(once) == 0) | (scales_of(once) > 2.0**-13)
    offset = once.offsets if spec.offset == "min" else None
    if spec.dq or not bool(normal.all()) or _subnormal(offset):
        return
    assert torch.equal(decode(twice), 2 * decode(once))


def _subnormal(offset: Tensor | None) -> bool:
    """A tiny minimum is rounded to a fixed step instead of a share of itself."""
    return offset is not None and bool((offset.view(torch.float16).float().abs() < 2.0**-13).any())


@given(shapes, groups, seeds, st.sampled_from([n for n, f in FORMATS.items() if "zp" in f.offsets]))
def test_a_zero_point_keeps_zero_weights_exactly_zero(
    shape: tuple[int, int], group: int | str, seed: int, name: str
) -> None:
    weight = matrix(shape, seed)
    weight[:, 0] = 0
    for dq in ("", "+dq"):
        decoded = decode(encode(weight, parse(f"{name}@{group}:zp{dq}")))
        assert not decoded[weight == 0].any()


@given(stored, shapes, seeds)
def test_how_a_weight_lies_in_memory_does_not_matter(
    spec: QuantSpec, shape: tuple[int, int], seed: int
) -> None:
    weight = matrix(shape, seed)
    transposed = weight.T.contiguous().T
    cut = torch.cat([weight, weight], 1)[:, : shape[1]]
    expected = decode(encode(weight, spec))
    assert torch.equal(decode(encode(transposed, spec)), expected)
    assert torch.equal(decode(encode(cut, spec)), expected)


@given(stored, shapes, seeds)
def test_a_half_precision_weight_is_stored_as_its_fp32_value(
    spec: QuantSpec, shape: tuple[int, int], seed: int
) -> None:
    weight = matrix(shape, seed).to(torch.bfloat16)
    assert torch.equal(decode(encode(weight, spec)), decode(encode(weight.float(), spec)))


@given(coded(), shapes, seeds, st.sampled_from([1e-9, 1e-7, 1e5, 1e30]))
def test_scales_of_extreme_weights_are_neither_zero_nor_infinite(
    spec: QuantSpec, shape: tuple[int, int], seed: int, size: float
) -> None:
    made = torch.Generator().manual_seed(seed)
    weight = size * (1 + torch.rand(shape, generator=made))
    packed = encode(weight, spec)
    assert bool(torch.isfinite(decode(packed)).all())
    if spec.offset != "min" and not spec.dq:
        assert bool((scales_of(packed) >= 2.0**-24).all())
        assert bool((scales_of(packed) <= 65504).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("text", [*FORMATS, *CASTS, "int4:zp", "int4:min", "nf4+dq", "int3:mse"])
def test_a_weight_that_is_no_number_is_refused(text: str, bad: float) -> None:
    weight = torch.ones(2, 70)
    weight[1, 3] = bad
    with pytest.raises(RunError, match="NaN or infinity") as caught:
        encode(weight, parse(text))
    assert caught.value.exit_code == 1


def test_a_weight_that_a_plain_type_cannot_hold_is_refused() -> None:
    with pytest.raises(RunError, match="too large for float16"):
        encode(torch.full((2, 4), 1e5), parse("fp16"))
    assert float(decode(encode(torch.full((1, 1), 65504.0), parse("fp16")))) == 65504.0


def test_a_table_first_used_in_an_evaluation_serves_training_too() -> None:
    packed = encode(torch.randn(4, 64), parse("int6"))
    codec._table.cache_clear()
    with torch.inference_mode():
        seen = decode(packed).clone()
    inputs = torch.randn(2, 64, requires_grad=True)
    (inputs @ decode(packed).T).sum().backward()
    assert torch.equal(decode(packed), seen)
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, seen.sum(0).expand(2, 64))


# Mean squared error of N(0, 1) weights by absmax groups of m (ternary: absmean), from four million
# samples, as the theory's notes tabulate it; "2 bit" there is the symmetric code of three levels.
NAMES = ("int2:sym", "int3", "int4", "int5", "int6", "int8", "nf4", "ternary")
DISTORTION = {
    32: (".433", ".0513", ".00941", ".00205", "4.80e-4", "2.86e-5", ".00762", ".254"),
    64: (".514", ".0630", ".01156", ".00252", "5.89e-4", "3.51e-5", ".00844", ".259"),
    128: (".588", ".0750", ".01377", ".00300", "7.01e-4", "4.18e-5", ".00914", ".261"),
    256: (".651", ".0869", ".01595", ".00347", "8.13e-4", "4.85e-5", ".00974", ".262"),
}


def last_digit(figure: str) -> float:
    """Half a unit of the last digit printed: `.433` -> 0.0005."""
    mantissa, _, exponent = figure.partition("e")
    return 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


@pytest.mark.parametrize("m", DISTORTION)
def test_distortion_of_gaussian_weights_is_the_theorys(m: int) -> None:
    count, tabulated = max(2**21, 2**14 * m), 4e6
    weight = torch.randn(1024, count // 1024)
    for name, figure in zip(NAMES, DISTORTION[m], strict=True):
        base, _, suffix = name.partition(":")
        spec = parse(f"{base}@{m}" + (f":{suffix}" if suffix else ""))
        error = (decode(encode(weight, spec)) - weight).square().double().view(-1, m).mean(-1)
        # Three standard errors of two independent samples of groups, and the table's last digit.
        one = float(error.std()) * m**0.5
        allowed = 3 * one * (1 / count + 1 / tabulated) ** 0.5 + last_digit(figure)
        assert abs(float(error.mean()) - float(figure)) <= allowed, name
        assert allowed < 0.011 * float(figure), name


# Distortion and scale of the best uniform quantiser of N(0, 1): Max (1960) with 4, 8 and 16 levels,
# and the best code of three levels.
@pytest.mark.parametrize(
    ("text", "distortion", "scale"),
    [
        ("ternary@tensor:lsq", 0.1902, 1.224),
        ("ternary@tensor:mse", 0.1902, 1.224),
        ("int2@tensor:even:lsq", 0.1188, 1.494),
        ("int2@tensor:even:mse", 0.1188, 1.494),
        ("int3@tensor:even:mse", 0.03744, 2.051),
        ("int4@tensor:even:mse", 0.01154, 2.514),
    ],
)
def test_a_fitted_scale_reaches_the_best_uniform_quantiser(
    text: str, distortion: float, scale: float
) -> None:
    weight = torch.randn(512, 1024)
    packed = encode(weight, parse(text))
    error = (decode(packed) - weight).square().double()
    # mse tries scales 1.4 % of the largest weight apart, so it may miss the best by half of that.
    step = float(weight.abs().max()) * 0.9 / 64 / 2 if text.endswith("mse") else 0.01
    assert abs(float(scales_of(packed)) - scale) <= step
    sampling = 4 * float(error.std()) / error.numel() ** 0.5
    # With the same codes a scale off by a share x costs x^2 of the variance that the code explains,
    # which is less than one; choosing codes again only lowers it. Then the figure's last digit.
    allowed = sampling + (step / scale) ** 2 + 0.00005
    assert abs(float(error.mean()) - distortion) <= allowed


@pytest.mark.parametrize("size", [0.01, 0.037, 0.1, 0.3, 0.77, 1.0, 1.9, 3.3])
def test_a_double_quantised_scale_is_never_negative(size: float) -> None:
    """The scale of a zero group lies farthest below the mean, where rounding overshoots."""
    weight = torch.full((8, 64), size)
    weight[0] = 0
    assert bool((scales_of(encode(weight, parse("int4@64+dq"))) >= 0).all())


def test_the_nf4_construction_gives_the_published_levels() -> None:
    assert max(abs(a - b) for a, b in zip(normal_levels(4), NF4, strict=True)) < 1e-6
    assert levels_of(parse("nf4")) == NF4


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_normal_levels_have_an_exact_zero_and_exact_ends(bits: int) -> None:
    levels = levels_of(parse(f"nf{bits}"))
    assert len(levels) == 2**bits
    assert (levels[0], levels[-1]) == (-1.0, 1.0)
    assert 0.0 in levels
    assert sum(level > 0 for level in levels) == 2 ** (bits - 1)
    assert list(levels) == sorted(set(levels))


def test_casts_are_what_torch_casts_to() -> None:
    weight = torch.randn(5, 33)
    for name, dtype in codec.CAST_TYPES.items():
        assert is_cast(parse(name))
        assert torch.equal(decode(encode(weight, parse(name)), dtype), weight.to(dtype))


@pytest.mark.parametrize("text", ["nf4@16+dq", "int3@row", "int4@tensor:zp", "ternary@20:lsq"])
def test_codes_do_not_depend_on_how_many_rows_are_coded_at_a_time(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(13, 48)
    whole = encode(weight, parse(text))
    monkeypatch.setattr(codec, "_WEIGHTS_AT_A_TIME", 100)
    pieces = encode(weight, parse(text))
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, pieces.tensors()[name])


@pytest.mark.parametrize("text", [*FORMATS, "nf4@64+dq", "int3@16:zp", "bf16"])
def test_a_place_that_is_used_again_holds_the_same_matrix_bit_for_bit(text: str) -> None:
    scratch = Scratch()
    for shape in ((6, 100), (12, 48), (3, 200)):
        packed = encode(torch.randn(shape), parse(text))
        for dtype in (torch.float32, torch.bfloat16):
            assert torch.equal(decode(packed, dtype, scratch=scratch), decode(packed, dtype))
