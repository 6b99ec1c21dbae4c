"""Every tensor type that is read, against the `gguf` package's own decoder."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from helpers.gguf_files import SCALES_AT, random_bytes, write_tensor

from lowbit.core.errors import RunError
from lowbit.models import gguf_types
from lowbit.models.gguf_file import BLOCKS, read_gguf
from lowbit.models.gguf_types import BLOCK_TYPES, FORMAT_OF, numbers, packed
from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.codec import decode
from lowbit.quant.formats import spell

SHAPE = (6, 512)


@pytest.mark.parametrize("name", SCALES_AT)
def test_decoding_equals_the_oracle(name: str, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[name]
    data = random_bytes(kind, SHAPE, seed=3)
    write_tensor(tmp_path / "x.gguf", kind, data)
    expected = gguf.quants.dequantize(data, kind)
    file = read_gguf(tmp_path / "x.gguf")
    if not np.isfinite(expected).all():  # IQ1_M spreads its scale over the block
        with pytest.raises(RunError, match="NaN or infinity"):
            numbers(file, file.tensors["x.weight"])
        return
    decoded = numbers(file, file.tensors["x.weight"])
    if name in BLOCK_TYPES:
        assert torch.equal(decoded, torch.from_numpy(expected))
    else:
        np.testing.assert_allclose(decoded.numpy(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "Q8_0", "Q6_K"])
def test_a_tensor_is_decoded_in_parts_with_the_same_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = gguf.GGMLQuantizationType[name]
    write_tensor(tmp_path / "x.gguf", kind, random_bytes(kind, SHAPE, seed=3))
    file = read_gguf(tmp_path / "x.gguf")
    whole = numbers(file, file.tensors["x.weight"])
    monkeypatch.setattr(gguf_types, "NUMBERS_AT_A_TIME", 5 * BLOCKS[kind][1])
    assert torch.equal(whole, numbers(file, file.tensors["x.weight"]))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_types_keep_their_bits(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    data = gguf.quants.quantize(values, kind)
    write_tensor(tmp_path / "x.gguf", kind, data)
    file = read_gguf(tmp_path / "x.gguf")
    decoded = numbers(file, file.tensors["x.weight"])
    assert np.array_equal(decoded.view(torch.uint8).numpy(), data.view(np.uint8))


@pytest.mark.parametrize("name", BLOCK_TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_a_packed_matrix_has_the_same_numbers(name: str, seed: int, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[name]
    data = random_bytes(kind, SHAPE, seed)
    write_tensor(tmp_path / "x.gguf", kind, data)
    file = read_gguf(tmp_path / "x.gguf")
    matrix = packed(file, file.tensors["x.weight"])
    assert matrix is not None
    assert spell(matrix.spec) == FORMAT_OF[name]
    assert matrix.nbytes == matrix_bytes(matrix.spec, SHAPE).total == data.nbytes
    assert torch.equal(decode(matrix), torch.from_numpy(gguf.quants.dequantize(data, kind)))


def test_a_scale_that_our_fp16_cannot_hold_is_decoded_but_not_packed(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    data = random_bytes(kind, SHAPE, 0).reshape(-1, 34)
    data[0, :2] = np.array([60_000.0], "<f2").view(np.uint8)
    data = data.reshape(SHAPE[0], -1)
    write_tensor(tmp_path / "x.gguf", kind, data)
    file = read_gguf(tmp_path / "x.gguf")
    assert packed(file, file.tensors["x.weight"]) is None
    expected = torch.from_numpy(gguf.quants.dequantize(data, kind))
    assert torch.equal(numbers(file, file.tensors["x.weight"]), expected)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_a_scale_that_is_not_a_number_is_refused(name: str, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[name]
    data = random_bytes(kind, SHAPE, 0)
    data[:, :2] = np.array([np.nan], "<f2").view(np.uint8)
    write_tensor(tmp_path / "x.gguf", kind, data)
    file = read_gguf(tmp_path / "x.gguf")
    with pytest.raises(RunError, match=r"x\.weight"):
        numbers(file, file.tensors["x.weight"])


def test_block_sizes_are_the_oracle_s() -> None:
    for kind, (name, numbers_per_block, size) in BLOCKS.items():
        assert gguf.GGMLQuantizationType(kind).name == name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)] == (numbers_per_block, size)
