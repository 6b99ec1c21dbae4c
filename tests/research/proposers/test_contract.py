"""Contract of every proposer. A new `research/proposers/x.py` with a PROPOSER is tested too.

Proposers that need an external program or endpoint are tested in `tests/research/test_actions.py`,
with a program and an endpoint of the test's own.
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


def past_trial(text: str, gain: float | None, edit: tuple | None = None) -> PastTrial:
    loss = None if gain is None else 4.0 - gain
    return PastTrial(TRAIN, text, edit, "x", "discard", "no better", gain, loss)


@pytest.mark.parametrize("name", PROPOSERS)
def test_it_has_its_name_and_a_description(name: str) -> None:
    assert PROPOSERS[name].name == name
    assert PROPOSERS[name].about


@pytest.mark.parametrize("name", OURS)
class TestOurs:
    def test_it_changes_one_constant_of_the_program(self, name: str) -> None:
        for number in range(1, 12):
            proposal = proposer(name, 3).propose(replace(VIEW, trial=number))
            assert proposal is not None
            ast.parse(proposal.text)
            before, after = constants(TRAIN), constants(proposal.text)
            changed = [key for key in before if before[key] != after[key]]
            assert len(changed) == 1
            assert proposal.edit == (changed[0], after[changed[0]])
            assert changed[0] in proposal.description

    def test_the_same_seed_and_history_make_the_same_proposal(self, name: str) -> None:
        first, second = (proposer(name, 5).propose(VIEW) for _ in range(2))
        assert first == second
        many = {proposer(name, seed).propose(VIEW).text for seed in range(8)}  # type: ignore
        assert len(many) > 1

    def test_it_never_repeats_a_proposal(self, name: str) -> None:
        history: tuple[PastTrial, ...] = ()
        texts = set()
        for number in range(1, 25):
            view = replace(VIEW, history=history, trial=number)
            proposal = proposer(name, 0).propose(view)
            assert proposal is not None
            assert proposal.text not in texts
            texts.add(proposal.text)
            gain = None if number % 5 == 0 else -0.01 * number
            history = (*history, past_trial(proposal.text, gain, proposal.edit))

    def test_a_broken_program_in_the_history_does_not_stop_it(self, name: str) -> None:
        history = (past_trial("def (", None), past_trial("", None))
        assert proposer(name).propose(replace(VIEW, history=history, trial=3)) is not None

    def test_without_an_untried_edit_it_proposes_nothing(self, name: str) -> None:
        text = "BIAS = False\n"
        history = (past_trial("BIAS = True\n", -0.1, ("BIAS", True)),)
        assert proposer(name).propose(replace(VIEW, text=text, history=history)) is None


@pytest.mark.late
def test_the_built_in_learns_which_values_are_good() -> None:
    """In the history one rate is good with every scale, and two rates are bad with each."""
    history = tuple(
        past_trial(change(change(TRAIN, "SCALE", scale), "LR", rate), gain, ("LR", rate))
        for scale in ("absmean", "absmax", "lsq", "learned")
        for rate, gain in ((1e-3, 0.2), (1e-5, -0.2), (2e-5, -0.2))
    )
    view = View(change(TRAIN, "THRESHOLD", 0.6), "", "", "", history, 30, 4.0)
    proposals = [proposer("builtin", seed).propose(view) for seed in range(40)]
    rates = [each.edit[1] for each in proposals if each and each.edit and each.edit[0] == "LR"]
    assert rates
    assert not {1e-5, 2e-5} & set(rates)


def test_the_built_in_starts_with_two_rounds_of_the_priorities() -> None:
    priority = {dial.name: dial.priority for dial in DIALS}
    for seed in range(3):
        history: tuple[PastTrial, ...] = ()
        turns = []
        for number in range(1, 11):
            proposal = proposer("builtin", seed).propose(
                replace(VIEW, history=history, trial=number)
            )
            assert proposal is not None
            assert proposal.edit is not None
            turns.append(priority[proposal.edit[0]])
            history = (*history, past_trial(proposal.text, -0.01, proposal.edit))
        assert turns == [1, 2, 3, 4, 5] * 2


@pytest.mark.late
def test_the_built_in_never_returns_to_a_replaced_value() -> None:
    """Not even when it is the only edit left; then it proposes nothing."""
    incumbent, history, losses = TRAIN, (), 4.0
    for value in (2e-4, 5e-4, 1e-3):
        better = change(incumbent, "LR", value)
        losses -= 0.2
        history += (
            PastTrial(incumbent, better, ("LR", value), "x", "keep", "better", 0.2, losses),
        )
        incumbent = better
    edits = []
    for number in range(4, 80):
        proposal = proposer("builtin", 1).propose(View(incumbent, "", "", "", history, number, 4.0))
        if proposal is None:
            break
        assert proposal.edit is not None
        edits.append(proposal.edit)
        history += (
            PastTrial(
                incumbent, proposal.text, proposal.edit, "x", "discard", "", -0.1, losses + 0.1
            ),
        )
    assert proposal is None
    assert not {("LR", 1e-4), ("LR", 2e-4), ("LR", 5e-4)} & set(edits)
    assert len(edits) == len(set(edits)) == len(neighbours(incumbent)) - 3


@pytest.mark.parametrize("name", OURS)
def test_a_dial_without_effect_is_not_changed(name: str) -> None:
    """The knee needs the two-phase shape, and the share needs any warm-up shape."""
    plain = change(TRAIN, "WARMUP_SHAPE", "none")
    for text, without in ((TRAIN, {"WARMUP_KNEE"}), (plain, {"WARMUP_KNEE", "WARMUP_SHARE"})):
        assert not without & {edit[0] for edit in neighbours(text)}
        for seed in range(30):
            proposal = proposer(name, seed).propose(replace(VIEW, text=text))
            assert proposal is not None
            assert proposal.edit is not None
            assert proposal.edit[0] not in without
    two = change(TRAIN, "WARMUP_SHAPE", "two-phase")
    assert "WARMUP_KNEE" in {edit[0] for edit in neighbours(two)}
