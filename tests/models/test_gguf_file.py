"""Headers of GGUF files: what is read, and that a file that lies is refused at no cost."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest
from helpers.gguf_files import write_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.core.errors import UserError
from lowbit.models.gguf_file import read_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_llama(path)
    return path.read_bytes()


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def header(tensors: int = 0, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def tensor(name: bytes, dims: tuple[int, ...], kind: int = 0, start: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return string(name) + shape + struct.pack("<IQ", kind, start)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "magic"),
        (b"PK\x03\x04" + bytes(60), "does not start with GGUF"),
        (header(version=1), "version 1"),
        (header(version=2**24), "version"),
        (header(tensors=2**60), "tensor"),
        (header(entries=2**60), "metadata entry"),
        (header(entries=1) + struct.pack("<Q", 2**63), "bytes long"),
        (header(entries=1) + string(b"a") + struct.pack("<IQ", 8, 2**62), "needs"),
        (header(entries=1) + string(b"a") + struct.pack("<IIQ", 9, 8, 2**61), "more than the file"),
        (header(entries=1) + string(b"a") + struct.pack("<IIQ", 9, 4, 2**61), "needs"),
        (header(entries=1) + string(b"a") + struct.pack("<IIQ", 9, 9, 1), "nested"),
        (header(entries=1) + string(b"a") + struct.pack("<I", 99), "unknown type 99"),
        (header(entries=2) + 2 * (string(b"a") + struct.pack("<IB", 0, 1)), "two entries"),
        (header(tensors=1) + tensor(b"x", ()), "0 dimensions"),
        (header(tensors=1) + tensor(b"x", (1,) * 5), "5 dimensions"),
        (header(tensors=1) + tensor(b"x", (2**40, 2**40)), "beyond the end"),
        (header(tensors=1) + tensor(b"x", (0, 4)), "shape"),
        (header(tensors=1) + tensor(b"x", (33,), kind=2), "shape"),
        (header(tensors=1) + tensor(b"x", (4,), kind=15), "type 15; lowbit reads F32"),
        (header(tensors=1) + tensor(b"x", (4,), kind=4), "type 4"),
        (header(tensors=1) + tensor(b"x", (4,), start=2**63), "beyond the end"),
        (header(tensors=1) + tensor(b"x", (4,), start=8) + bytes(200), "not aligned"),
        (header(tensors=2) + 2 * tensor(b"x", (4,)) + bytes(200), "two tensors|overlaps"),
        (header(tensors=2) + tensor(b"x", (40,)) + tensor(b"y", (4,)) + bytes(300), "overlaps"),
        (
            header(entries=1) + string(b"general.alignment") + struct.pack("<II", 4, 0),
            "alignment is 0",
        ),
    ],
)
def test_a_lying_header_is_one_clear_line(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(UserError, match=words) as raised:
        read_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert peak < 2_000_000, "nothing is allocated that the file cannot hold"


def test_a_file_cut_anywhere_is_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 2000, 97), *range(2000, len(whole) - 40, 4999)]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_gguf(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_byte_never_ends_in_a_traceback(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, 12_000))
    changed = bytearray(whole)
    changed[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(changed)
    try:
        read_gguf(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
