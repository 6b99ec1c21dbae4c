"""bitsandbytes as the oracle: the same codes wherever both store the same scale.

It keeps scales in fp32 and we keep them in fp16, so codes may differ only where that matters.
Its 4-bit decoding is wrong on some CPUs where a row is no multiple of the block, so every matrix
that it reads here has rows of whole blocks.
"""

from __future__ import annotations

import sys

import pytest
import torch
from helpers import error_bounds
from torch import Tensor

from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.layers.frozen import FrozenMatrix
from lowbit.quant import bitsandbytes as kernel
from lowbit.quant.codec import decode, encode, scales_of
from lowbit.quant.formats import FORMATS, levels_of, parse
from lowbit.quant.packing import unpack
from lowbit.runs.device import open_machine

functional = pytest.importorskip(
    "bitsandbytes.functional", reason="bitsandbytes is not installed", exc_type=ImportError
)

BLOCKS = (32, 64, 128)
SHAPE = (48, 256)


def theirs(weight: Tensor, kind: str, block: int) -> tuple[Tensor, Tensor]:
    """Their codes, as indices into their own table, and scales of each block."""
    packed, state = functional.quantize_4bit(
        weight, blocksize=block, quant_type=kind, compress_statistics=False
    )
    flat = packed.flatten()
    codes = torch.stack([flat >> 4, flat & 15], -1).view(weight.shape)  # the first is on top
    return codes, state.absmax.view(len(weight), -1)


def ours(weight: Tensor, name: str, block: int) -> tuple[Tensor, Tensor]:
    packed = encode(weight, parse(f"{name}@{block}"))
    return unpack(packed.codes, weight.shape[1], FORMATS[name].packing), scales_of(packed)


def gaussian() -> Tensor:
    return 0.05 * torch.randn(SHAPE)


def with_exact_scales(block: int) -> Tensor:
    """Every block's largest weight is an fp16 number, so both sides divide by the same scale."""
    blocks = gaussian().view(-1, block)
    largest = blocks.abs().argmax(-1, keepdim=True)
    exact = blocks.gather(-1, largest).to(torch.float16).float()
    # Rounding down could leave another weight on top; none may be larger.
    return blocks.scatter(-1, largest, exact).clamp(-exact.abs(), exact.abs()).view(SHAPE)


def to_boundary(weight: Tensor, scale: Tensor, name: str, block: int) -> Tensor:
    """How far each weight over its scale lies from the nearest boundary between two levels."""
    levels = torch.tensor(levels_of(parse(name)), dtype=torch.float64)
    middle = (levels[1:] + levels[:-1]) / 2
    over = weight.double().view(len(weight), -1, block) / scale.double()[..., None]
    return (over[..., None] - middle).abs().amin(-1).view(weight.shape)


def test_nf4_levels_are_theirs() -> None:
    table = functional.get_4bit_type("nf4", device="cpu")
    assert torch.equal(table, torch.tensor(levels_of(parse("nf4"))))


def test_fp4_bnb_levels_are_theirs() -> None:
    table = functional.get_4bit_type("fp4", device="cpu")
    expected = torch.tensor(levels_of(parse("fp4-bnb")))
    # Theirs has 0 and -0, which are one level.
    assert torch.equal(table.unique(), expected)


@pytest.mark.parametrize("block", BLOCKS)
def test_nf4_codes_are_theirs_where_the_scale_is_exact(block: int) -> None:
    weight = with_exact_scales(block)
    (codes, scale), (expected, absmax) = ours(weight, "nf4", block), theirs(weight, "nf4", block)
    assert torch.equal(scale, absmax)
    # Both divide and compare in fp32, so only a weight within its rounding may differ.
    certain = to_boundary(weight, absmax, "nf4", block) > 2.0**-22
    assert float(certain.float().mean()) > 0.999
    assert torch.equal(codes[certain], expected[certain])


@pytest.mark.parametrize("block", BLOCKS)
def test_fp4_values_are_theirs_where_the_scale_is_exact(block: int) -> None:
    weight = with_exact_scales(block)
    (codes, _), (found, absmax) = ours(weight, "fp4-bnb", block), theirs(weight, "fp4", block)
    table = functional.get_4bit_type("fp4", device="cpu")
    levels = torch.tensor(levels_of(parse("fp4-bnb")))
    # Their boundaries between fp4 levels are constants of eight digits.
    certain = to_boundary(weight, absmax, "fp4-bnb", block) > 1e-7
    assert float(certain.float().mean()) > 0.999
    assert torch.equal(levels[codes.long()][certain], table[found.long()][certain])


@pytest.mark.parametrize("block", BLOCKS)
def test_nf4_codes_differ_only_within_the_scales_rounding_of_a_boundary(block: int) -> None:
    weight = gaussian()
    (codes, scale), (expected, absmax) = ours(weight, "nf4", block), theirs(weight, "nf4", block)
    rounding = (scale.double() / absmax.double() - 1).abs()
    assert float(rounding.max()) <= error_bounds.HALF
    assert float(rounding.max()) > 0
    # A weight over its scale is at most one, so it moves by at most the scale's rounding.
    near = (rounding / (1 - rounding) + 2.0**-22).repeat_interleave(block, 1)
    differ = codes != expected
    assert bool((to_boundary(weight, absmax, "nf4", block) <= near)[differ].all())
    assert int((codes.int() - expected.int()).abs().max()) <= 1
    assert float(differ.float().mean()) < 0.01


@pytest.mark.parametrize("block", BLOCKS)
def test_double_quantised_scales_are_within_the_bound_of_theirs(block: int) -> None:
    weight = gaussian()
    spec = parse(f"nf4@{block}+dq")
    packed = encode(weight, spec)
    _, absmax = theirs(weight, "nf4", block)
    flat, found = absmax.flatten().double(), scales_of(packed).flatten().double()
    half = flat.to(torch.float16).double()
    for part, near, away in zip(
        flat.split(256), found.split(256), (half - half.mean()).abs().split(256), strict=True
    ):
        spread = float(away.max())
        allowed = [error_bounds.scale_bound(spec, float(scale), spread) for scale in part]
        assert bool(((near - part).abs() <= torch.tensor(allowed, dtype=torch.float64)).all())


def test_double_quantised_weights_are_within_the_bound() -> None:
    weight = gaussian()
    spec = parse("nf4@64+dq")
    decoded = decode(encode(weight, spec)).double().view(-1, 64)
    _, absmax = theirs(weight, "nf4", 64)
    half = absmax.flatten().to(torch.float16).double()
    spread = float((half - half.mean()).abs().max())
    for block, found, scale in zip(
        weight.double().view(-1, 64), decoded, absmax.flatten(), strict=True
    ):
        bound = error_bounds.error_bound(
            spec, float(block.min()), float(block.max()), float(scale), spread
        )
        assert float((block - found).abs().max()) <= bound


# --- its kernel as a decoder ----------------------------------------------------------------------

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
        ],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("text", ["nf4@64", "nf4@64+dq", "nf4@128"])
def test_its_kernel_decodes_our_codes_to_our_numbers(
    device: str, dtype: torch.dtype, text: str
) -> None:
    store = encode(gaussian(), parse(text))
    moved = FrozenMatrix(store, decoder="bitsandbytes").to(device)
    assert moved.decoder == "bitsandbytes"
    assert torch.equal(moved.weight(dtype).cpu(), decode(store, dtype))


@pytest.mark.parametrize("device", DEVICES)
def test_its_kernel_gives_the_same_product_and_gradients(device: str) -> None:
    store, x = encode(gaussian(), parse("nf4@64")), torch.randn(5, SHAPE[1], device=device)
    found = []
    for decoder in ("own", "bitsandbytes"):
        held = x.clone().requires_grad_()
        y = FrozenMatrix(store, decoder=decoder).to(device)(held)
        y.square().sum().backward()
        assert held.grad is not None
        found.append((y.detach(), held.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("text", "columns"), [("nf4@48", 96), ("nf4@64", 96), ("int4@64", 128), ("nf4@row", 128)]
)
def test_what_its_kernel_cannot_read_keeps_our_decoder(text: str, columns: int) -> None:
    store = encode(torch.randn(8, columns), parse(text))
    assert FrozenMatrix(store, decoder="bitsandbytes").decoder == "own"


def test_without_it_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    kernel.library.cache_clear()
    try:
        with pytest.raises(UserError, match=r"pip install 'lowbit\[bitsandbytes\]'"):
            open_machine(Execution(device="cpu", decoder="bitsandbytes"), "fp32")
    finally:
        kernel.library.cache_clear()
