"""Calibration text is spread evenly over the data, and fits in memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from helpers.models import batch_of, some_ids

from lowbit.core.errors import UserError
from lowbit.sensitivity.calibration import (
    calibration_text,
    evenly_spaced,
    subset_indices,
)
from lowbit.tasks.base import Example


def test_fewer_sequences_are_spread_over_all() -> None:
    ids = some_ids(10, 9)
    batches = [batch_of(row[None, :-1], row[None, 1:]) for row in ids]
    assert subset_indices(batches, 0) == subset_indices(batches, 10_000) == ()
    assert subset_indices(batches, 40) == (0, 2, 4, 6, 8)
    assert subset_indices(batches, 1) == (0,)
    assert evenly_spaced([1] * 10, 7) == (0, 1, 2, 4, 5, 7, 8)
    assert evenly_spaced([9, 1], 10) == evenly_spaced([9, 1], 99) == (0, 1)


def test_what_is_measured_on_is_composed_as_what_is_scored() -> None:
    """Sequences of all text, evenly: a document speaks as often as it is long."""
    rows = [(document, k) for document, long in enumerate((6, 1, 3)) for k in range(long)]
    part = tuple(Example(np.arange(9), np.arange(9), document, 9) for document, _ in rows)
    start = SimpleNamespace(
        data=SimpleNamespace(parts={"calibration": part, "train": part[:1]}),
        task=SimpleNamespace(name="t"),
    )
    _, documents = calibration_text(start, 9 * 5)  # type: ignore[arg-type]
    assert documents == [0, 0, 0, 1, 2]
    _, documents = calibration_text(start, 9 * 10)  # type: ignore[arg-type]
    assert documents == [0, 0, 0, 0, 0, 0, 1, 2, 2, 2]
    _, documents = calibration_text(start, 9 * 11, ("calibration", "train"))  # type: ignore[arg-type]
    assert documents[-2:] == [2, 3], "the other part's documents are others"


def test_too_little_text_to_calibrate_on_says_how_little_it_would_tell() -> None:
    part = tuple(Example(np.arange(9), np.arange(9), i, 9) for i in range(9))
    for kind, error in (("language", r"0\.031"), ("classification", r"0\.092")):
        start = SimpleNamespace(
            data=SimpleNamespace(parts={"calibration": part}),
            task=SimpleNamespace(name="t", kind=kind),
        )
        with pytest.raises(UserError, match=rf"81 tokens to calibrate on; 512 .* ± {error}"):
            calibration_text(start, 4096)  # type: ignore[arg-type]
