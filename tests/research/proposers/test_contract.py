"""What every proposer promises. A new `research/proposers/x.py` with a PROPOSER joins by itself.

Those that need somebody else's program or address are asked with ones of our own, in
`tests/research/test_actions.py`.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from lowbit.core.plugins import plugins
from lowbit.research.campaign.edits import DIALS, change, constants, neighbours
from lowbit.research.proposers import proposer
from lowbit.research.proposers.view import PastTrial, View

PROPOSERS = plugins("lowbit.research.proposers", "PROPOSER")
OURS = sorted(set(PROPOSERS) - {"command", "openai"})
TRAIN = (Path(__file__).parents[3] / "studies" / "ternary" / "train.py").read_text(encoding="utf-8")
VIEW = View(TRAIN, "", "", "", (), 1, 4.0)


def tried(text: str, gain: float | None, edit: tuple | None = None) -> PastTrial:
    loss = None if gain is None else 4.0 - gain
    return PastTrial(TRAIN, text, edit, "x", "discard", "no better", gain, loss)


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
        history: tuple[PastTrial, ...] = ()
        seen = set()
        for number in range(1, 25):
            view = replace(VIEW, history=history, trial=number)
            found = proposer(name, 0).propose(view)
            assert found is not None
            assert found.text not in seen
            seen.add(found.text)
            gain = None if number % 5 == 0 else -0.01 * number
            history = (*history, tried(found.text, gain, found.edit))

    def test_what_somebody_else_broke_does_not_stop_it(self, name: str) -> None:
        history = (tried("def (", None), tried("", None))
        assert proposer(name).propose(replace(VIEW, history=history, trial=3)) is not None

    def test_when_all_was_tried_it_says_so(self, name: str) -> None:
        text = "BIAS = False\n"
        history = (tried("BIAS = True\n", -0.1, ("BIAS", True)),)
        assert proposer(name).propose(replace(VIEW, text=text, history=history)) is None


@pytest.mark.late
def test_the_built_in_learns_which_values_are_good() -> None:
    """Told of one rate that is good with every scale, and of two that are bad with each."""
    told = tuple(
        tried(change(change(TRAIN, "SCALE", scale), "LR", rate), gain, ("LR", rate))
        for scale in ("absmean", "absmax", "lsq", "learned")
        for rate, gain in ((1e-3, 0.2), (1e-5, -0.2), (2e-5, -0.2))
    )
    view = View(change(TRAIN, "THRESHOLD", 0.6), "", "", "", told, 30, 4.0)
    asked = [proposer("builtin", seed).propose(view) for seed in range(40)]
    rates = [one.edit[1] for one in asked if one and one.edit and one.edit[0] == "LR"]
    assert rates
    assert not {1e-5, 2e-5} & set(rates)


def test_the_built_in_goes_twice_round_the_priorities_first() -> None:
    priority = {dial.name: dial.priority for dial in DIALS}
    for seed in range(3):
        history: tuple[PastTrial, ...] = ()
        turns = []
        for number in range(1, 11):
            found = proposer("builtin", seed).propose(replace(VIEW, history=history, trial=number))
            assert found is not None
            assert found.edit is not None
            turns.append(priority[found.edit[0]])
            history = (*history, tried(found.text, -0.01, found.edit))
        assert turns == [1, 2, 3, 4, 5] * 2


@pytest.mark.late
def test_the_built_in_does_not_go_back_to_what_a_keep_has_beaten() -> None:
    """Not even when little else is left, and after all of it, it ends."""
    now, history, losses = TRAIN, (), 4.0
    for value in (2e-4, 5e-4, 1e-3):
        better = change(now, "LR", value)
        losses -= 0.2
        history += (PastTrial(now, better, ("LR", value), "x", "keep", "better", 0.2, losses),)
        now = better
    asked = []
    for number in range(4, 80):
        found = proposer("builtin", 1).propose(View(now, "", "", "", history, number, 4.0))
        if found is None:
            break
        assert found.edit is not None
        asked.append(found.edit)
        history += (PastTrial(now, found.text, found.edit, "x", "discard", "", -0.1, losses + 0.1),)
    assert found is None
    assert not {("LR", 1e-4), ("LR", 2e-4), ("LR", 5e-4)} & set(asked)
    assert len(asked) == len(set(asked)) == len(neighbours(now)) - 3


@pytest.mark.parametrize("name", OURS)
def test_a_dial_that_does_nothing_here_is_not_turned(name: str) -> None:
    """A knee belongs to two phases, a length to a warm-up."""
    plain = change(TRAIN, "WARMUP_SHAPE", "none")
    for text, without in ((TRAIN, {"WARMUP_KNEE"}), (plain, {"WARMUP_KNEE", "WARMUP_SHARE"})):
        assert not without & {edit[0] for edit in neighbours(text)}
        for seed in range(30):
            found = proposer(name, seed).propose(replace(VIEW, text=text))
            assert found is not None
            assert found.edit is not None
            assert found.edit[0] not in without
    two = change(TRAIN, "WARMUP_SHAPE", "two-phase")
    assert "WARMUP_KNEE" in {edit[0] for edit in neighbours(two)}
