"""Codes <-> bytes: an exact inverse, in exactly the bytes that were promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lowbit.quant.formats import FORMATS, PACKINGS, TERNARY_PACKING, Packing
from lowbit.quant.packing import pack, unpack, words

ALL = [*PACKINGS.values(), TERNARY_PACKING]
packings = st.sampled_from(ALL)


def codes_of(packing: Packing, rows: int, columns: int, seed: int) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(packing.radix, (rows, columns), generator=made, dtype=torch.uint8)


@given(packings, st.integers(1, 5), st.integers(1, 70), st.integers(0, 2**31))
def test_unpack_is_the_inverse_of_pack(
    packing: Packing, rows: int, columns: int, seed: int
) -> None:
    codes = codes_of(packing, rows, columns, seed)
    packed = pack(codes, packing)
    assert packed.shape == (rows, packing.row_bytes(columns))
    assert torch.equal(unpack(packed, columns, packing), codes)


@given(packings, st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**31))
def test_a_unit_is_one_little_endian_number_in_the_radix(
    packing: Packing, rows: int, columns: int, seed: int
) -> None:
    codes = codes_of(packing, rows, columns, seed)
    for row, kept in zip(codes.tolist(), pack(codes, packing).numpy(), strict=True):
        raw = bytearray()
        for start in range(0, columns, packing.codes):
            digits = row[start : start + packing.codes]
            number = sum(digit * packing.radix**place for place, digit in enumerate(digits))
            raw += number.to_bytes(packing.bytes, "little")
        assert bytes(np.asarray(kept)) == bytes(raw)


@given(packings, st.integers(1, 4), st.integers(1, 40), st.integers(0, 2**31))
def test_rows_are_packed_apart(packing: Packing, rows: int, columns: int, seed: int) -> None:
    codes = codes_of(packing, rows, columns, seed)
    alone = [pack(codes[row : row + 1], packing) for row in range(rows)]
    assert torch.equal(pack(codes, packing), torch.cat(alone))


@given(packings, st.integers(1, 40), st.integers(0, 2**31))
def test_words_index_a_table_of_all_combinations(packing: Packing, columns: int, seed: int) -> None:
    codes = codes_of(packing, 2, columns, seed)
    index = words(pack(codes, packing), packing)
    assert index.shape[1] * packing.word_codes >= columns
    assert 0 <= int(index.min()) <= int(index.max()) < packing.entries


@pytest.mark.parametrize("packing", ALL, ids=lambda p: f"radix{p.radix}")
def test_extreme_codes_survive(packing: Packing) -> None:
    for digit in (0, packing.radix - 1):
        codes = torch.full((2, 3 * packing.codes + 1), digit, dtype=torch.uint8)
        assert torch.equal(unpack(pack(codes, packing), codes.shape[1], packing), codes)


@pytest.mark.parametrize("packing", ALL, ids=lambda p: f"radix{p.radix}")
def test_packing_no_rows_gives_no_bytes(packing: Packing) -> None:
    none = torch.zeros(0, 7, dtype=torch.uint8)
    assert pack(none, packing).shape == (0, packing.row_bytes(7))
    assert unpack(pack(none, packing), 7, packing).shape == (0, 7)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_a_unit_has_room_for_its_codes_and_wastes_less_than_a_bit_of_each(form) -> None:
    packing = form.packing
    room, used = 8 * packing.bytes, packing.codes * np.log2(packing.radix)
    assert used <= room < used + packing.codes
    assert packing.words * packing.word_codes == packing.codes
    # A byte in hand: the codes of a unit cost what the format says, on average.
    assert room / packing.codes == pytest.approx(form.bits)


@pytest.mark.parametrize(
    ("bits", "codes", "size"),
    [(8, 1, 1), (4, 2, 1), (2, 4, 1), (3, 8, 3), (6, 4, 3), (5, 8, 5), (7, 8, 7)],
)
def test_bytes_of_a_unit_are_whole_and_carry_no_padding(bits: int, codes: int, size: int) -> None:
    packing = PACKINGS[bits]
    assert (packing.codes, packing.bytes) == (codes, size)
    assert codes * bits == 8 * size
    assert packing.row_bytes(codes + 1) == 2 * size
