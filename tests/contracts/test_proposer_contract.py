"""What every proposer promises. A new `research/proposers/x.py` with a PROPOSER joins by itself.

Those that need somebody else's program or address are asked with ones of our own, in
`tests/laws/test_research_verbs.py`.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from lowbit.registry import plugins
from lowbit.research.edits import change, constants, neighbours
from lowbit.research.proposers import proposer
from lowbit.research.views import Tried, View

PROPOSERS = plugins("lowbit.research.proposers", "PROPOSER")
OURS = sorted(set(PROPOSERS) - {"command", "openai"})
TRAIN = (Path(__file__).parents[2] / "studies" / "ternary" / "train.py").read_text(encoding="utf-8")
VIEW = View(TRAIN, "", "", "", (), 1)


def tried(text: str, gain: float | None, edit: tuple | None = None) -> Tried:
    return Tried(TRAIN, text, edit, "x", "discard", "no better", gain)


@pytest.mark.parametrize("name", PROPOSERS)
def test_it_says_what_it_is(name: str) -> None:
    assert PROPOSERS[name].name == name
    assert PROPOSERS[name].about


@pytest.mark.parametrize("name", OURS)
class TestOurs:
    def test_it_changes_one_constant_of_the_program(self, name: str) -> None:
        for number in range(1, 12):
            found = proposer(name, 3).propose(replace(VIEW, trial=number))
            assert found is not None
            ast.parse(found.text)
            before, after = constants(TRAIN), constants(found.text)
            changed = [key for key in before if before[key] != after[key]]
            assert len(changed) == 1
            assert found.edit == (changed[0], after[changed[0]])
            assert changed[0] in found.description

    def test_the_same_seed_and_history_make_the_same_proposal(self, name: str) -> None:
        one, two = (proposer(name, 5).propose(VIEW) for _ in range(2))
        assert one == two
        many = {proposer(name, seed).propose(VIEW).text for seed in range(8)}  # type: ignore
        assert len(many) > 1

    def test_what_was_tried_is_not_proposed_again(self, name: str) -> None:
        history: tuple[Tried, ...] = ()
        seen = set()
        for number in range(1, 25):
            view = replace(VIEW, tried=history, trial=number)
            found = proposer(name, 0).propose(view)
            assert found is not None
            assert found.text not in seen
            seen.add(found.text)
            gain = None if number % 5 == 0 else -0.01 * number
            history = (*history, tried(found.text, gain, found.edit))

    def test_what_somebody_else_broke_does_not_stop_it(self, name: str) -> None:
        history = (tried("def (", None), tried("", None))
        assert proposer(name).propose(replace(VIEW, tried=history, trial=3)) is not None

    def test_when_all_was_tried_it_says_so(self, name: str) -> None:
        text = "BIAS = False\n"
        history = (tried("BIAS = True\n", -0.1, ("BIAS", True)),)
        assert proposer(name).propose(replace(VIEW, text=text, tried=history)) is None


def test_the_built_in_learns_where_gains_are() -> None:
    """Of two dozen edits told only those of the rate gained: it asks for those, mostly."""
    told = tuple(
        tried(change(TRAIN, name, value), 0.2 if name == "LR" else -0.2, (name, value))
        for name, value in neighbours(TRAIN)
        if name in ("LR", "SCALE", "THRESHOLD", "BIAS", "OFF_WEIGHT")
    )
    view = View(change(TRAIN, "WARMUP_SHAPE", "cosine"), "", "", "", told, 30)
    asked = [proposer("builtin", seed).propose(view) for seed in range(20)]
    assert sum(one.edit[0] == "LR" for one in asked if one and one.edit) >= 8


def test_the_built_in_does_not_go_back_to_what_a_keep_has_beaten() -> None:
    now = TRAIN
    history: tuple[Tried, ...] = ()
    for value in (2e-4, 5e-4, 1e-3):
        better = change(now, "LR", value)
        history += (Tried(now, better, ("LR", value), "x", "keep", "better", 0.2),)
        now = better
    for seed in range(20):
        found = proposer("builtin", seed).propose(View(now, "", "", "", history, 4))
        assert found is not None
        assert found.edit not in [("LR", 1e-4), ("LR", 2e-4), ("LR", 5e-4)]
