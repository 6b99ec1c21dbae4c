"""Tokenised once; a file that is torn or not ours counts as absent."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lowbit.core import array_store
from lowbit.core.cache import cache_dir
from lowbit.core.errors import RunError

ARRAYS = {"a": np.arange(5, dtype=np.int32), "b": np.arange(6, dtype=np.int32)}


def equal(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[n], theirs[n]) for n in ours)


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "x.safetensors"
    array_store.save(path, "key", ARRAYS)
    return path.read_bytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("torn") / "x.safetensors"


def test_what_was_kept_comes_back(tmp_path):
    path = tmp_path / "deep" / "x.safetensors"
    assert equal(array_store.load_or_compute(path, "key", lambda: ARRAYS), ARRAYS)
    assert equal(
        array_store.load_or_compute(path, "key", lambda: pytest.fail("made twice")), ARRAYS
    )
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_torn_file_is_never_half_read(content, path, data):
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert array_store.load(path, "key") is None


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_noticed(content, path, data):
    at = data.draw(st.integers(0, len(content) - 1))
    change = data.draw(st.integers(1, 255))
    path.write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
    kept = array_store.load(path, "key")
    assert kept is None or equal(kept, ARRAYS)


def test_a_file_made_for_another_key_is_made_again(tmp_path):
    path = tmp_path / "x.safetensors"
    array_store.save(path, "another", {"a": ARRAYS["b"]})
    assert equal(array_store.load_or_compute(path, "key", lambda: ARRAYS), ARRAYS)
    assert equal(array_store.load(path, "key"), ARRAYS)


def test_a_foreign_file_is_made_again_and_a_pickle_never_opened(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(ARRAYS, path)
    assert array_store.load(path, "key") is None
    path.write_bytes(pickle.dumps(ARRAYS))
    assert array_store.load(path, "key") is None


def test_a_cache_that_cannot_be_written_says_which_and_what_to_set(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write the cache file .*LOWBIT_CACHE"):
        array_store.save(tmp_path / "file" / "x.safetensors", "key", ARRAYS)


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    array_store.save(path, "key", ARRAYS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        array_store.save(path, "key", {"a": ARRAYS["b"]})
    assert equal(array_store.load(path, "key"), ARRAYS)
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_cache_folder_is_the_one_named_or_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("LOWBIT_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path.home() / ".cache" / "lowbit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "lowbit"
