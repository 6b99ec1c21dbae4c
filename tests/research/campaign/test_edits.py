"""Edits of one dial, detection of seed-only edits, and the format of results.tsv."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.core.errors import UserError
from lowbit.research.campaign.edits import (
    DIALS,
    PRIORITIES,
    change,
    constants,
    neighbours,
    only_seeds_differ,
    random_edit,
)
from lowbit.research.campaign.results_tsv import ResultsRow, from_tsv, ranked, to_tsv

TRAIN = (Path(__file__).parents[3] / "studies" / "ternary" / "train.py").read_text(encoding="utf-8")


def test_every_dial_is_in_the_program_and_every_priority_has_one() -> None:
    values = constants(TRAIN)
    for dial in DIALS:
        assert dial.name in values
        assert values[dial.name] in dial.values, (
            f"{dial.name} starts at a value that it may not have"
        )
    assert {dial.priority for dial in DIALS} == set(PRIORITIES)


@pytest.mark.parametrize("dial", DIALS, ids=lambda dial: dial.name)
def test_an_edit_changes_one_constant_and_no_other_character(dial) -> None:
    for value in dial.values:
        new_text = change(TRAIN, dial.name, value)
        assert constants(new_text) == {**constants(TRAIN), dial.name: value}
        differing = [
            (a, b) for a, b in zip(TRAIN.splitlines(), new_text.splitlines(), strict=True) if a != b
        ]
        assert len(differing) <= 1
        for a, b in differing:
            assert a.partition("#")[2] == b.partition("#")[2], "comments stay"
        ast.parse(new_text)


def test_a_constant_that_cannot_be_changed_is_named() -> None:
    with pytest.raises(UserError, match="Did you mean 'THRESHOLD'"):
        change(TRAIN, "THRESHOLDS", 0.5)
    with pytest.raises(UserError, match="does not parse"):
        change("def", "LR", 0.1)
    with pytest.raises(UserError, match="several lines"):
        change("LR = (1,\n  2)\n", "LR", 2)
    with pytest.raises(UserError, match="exactly once"):
        change("LR = 1\nLR = 2\n", "LR", 3)


def test_an_edit_after_two_byte_letters_changes_the_right_characters() -> None:
    assert change('é = "ü"; LR = 1  # ü\n', "LR", 2) == 'é = "ü"; LR = 2  # ü\n'


@given(st.integers(0, 10_000))
def test_a_random_edit_depends_on_the_seed_and_is_never_repeated(seed: int) -> None:
    first, second = (random_edit(TRAIN, random.Random(seed)) for _ in range(2))
    assert first == second
    assert first is not None
    history = [{**constants(TRAIN), first[0]: first[1]}]
    assert random_edit(TRAIN, random.Random(seed), history) != first


def test_without_an_untried_edit_there_is_no_random_edit() -> None:
    text = "BIAS = False\n"
    assert neighbours(text) == [("BIAS", True)]
    assert random_edit(text, random.Random(0), [{"BIAS": True}]) is None


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("torch.manual_seed(1)\nx = 1", "torch.manual_seed(2)\nx = 1", True),
        ("x = 1", "torch.manual_seed(7)\nx = 1", True),
        ("x = 1", "import torch\ntorch.manual_seed(7)\nx = 1", True),
        ("SEED = 1\nx = SEED", "SEED = 2\nx = SEED", True),
        ("r = np.random.default_rng(0)", "r = np.random.default_rng(seed=5)", True),
        ("x = 1", "x = 1  # a comment", True),
        ("x = 1", "x = 2", False),
        ("torch.manual_seed(1)\nLR = 1", "torch.manual_seed(2)\nLR = 2", False),
        ("f(1)", "f(2)", False),
        # The order of the data depends on the seed too, wherever the program stores it.
        ("import prepare\nx = 1", "import prepare\nprepare.SEED = 7\nx = 1", True),
        ("import prepare\nx = 1", "import prepare\nprepare.TRIAL['seed'] = 7\nx = 1", True),
        ("x = 1", "SEED = 7\ntorch.manual_seed(SEED)\nx = 1", True),
        ("x = 1", "seed: int = 7\nx = 1", True),
        ("x = 1", "state['speed'] = 7\nx = 1", False),
    ],
)
def test_an_edit_of_nothing_but_a_seed_is_detected(before: str, after: str, same: bool) -> None:
    assert only_seeds_differ(before, after) == same


# --- results.tsv ----------------------------------------------------------------------------------


def test_results_tsv_follows_the_convention() -> None:
    rows = [
        ResultsRow("abcdef1234567", 53.21, 1.26, "keep", "baseline", 1.73),
        ResultsRow("bbbbbbb", None, 0.0, "crash", "a\ttab and\na line", None, "timeout"),
        ResultsRow("ccccccc", 51.0, 1.3, "discard", "x", 1.73, "not better"),
    ]
    text = to_tsv(rows)
    lines = text.splitlines()
    assert lines[0].split("\t")[:5] == ["commit", "val_ppl", "memory_gb", "status", "description"]
    assert lines[1].split("\t")[:5] == ["abcdef1", "53.210000", "1.3", "keep", "baseline"]
    assert lines[2].split("\t")[:5] == ["bbbbbbb", "0.000000", "0.0", "crash", "a tab and a line"]
    again = from_tsv(text)
    assert [row.status for row in again] == ["keep", "crash", "discard"]
    assert again[1].val_ppl is None, "a crash has no score, whatever its column holds"
    assert to_tsv(again) == text


def test_only_keeps_are_ranked() -> None:
    rows = [ResultsRow("a", 50.0, 1, "keep", ""), ResultsRow("b", 40.0, 1, "discard", ""),
            ResultsRow("c", 0.0, 1, "crash", ""), ResultsRow("d", 45.0, 1, "keep", "")]  # fmt: skip
    assert [row.commit for row in ranked(rows)] == ["d", "a"]


@pytest.mark.parametrize(
    "text", ["", "a\tb\n", "commit\tval_ppl\tmemory_gb\tstatus\tdescription\nabc\t1\t2\twon\tx\n",
             "commit\tval_ppl\tmemory_gb\tstatus\tdescription\nabc\tx\t2\tkeep\tx\n"]
)  # fmt: skip
def test_a_table_in_another_format_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"results\.tsv"):
        from_tsv(text)
